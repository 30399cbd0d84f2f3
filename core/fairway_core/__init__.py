"""Values shared by every component: objects, keys, selectors, World, errors, clock. No I/O."""

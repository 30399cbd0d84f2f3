"""The demonstration behind `./dev demo`: the main job, end to end, told as a person would like to read it."""

"""What a command or a caller asks for, done: a configuration's names made into objects, and run."""

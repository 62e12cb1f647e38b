"""Training runs at many settings of the codec, from which the planner learns what each costs."""

"""Every schedule of a budget, generated: the best one for all prompts against each prompt's own best."""

"""Design questions: what fits a budget, what a change would buy, and which designs of a space are the best."""

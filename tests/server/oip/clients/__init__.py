"""Programs that run in environments of other people's clients. They import nothing of ours."""

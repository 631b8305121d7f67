"""Analysis: the numbers of runs and studies, without markup."""

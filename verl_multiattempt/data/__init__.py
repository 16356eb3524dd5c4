"""``multiattempt prepare``: benchmarks and training sets, from the hub or local files, to verl's parquet.

==============  ========================================================================
`benchmarks`    the built-in recipes: where a benchmark is published and what its columns are
`sources`       rows of local files, `hub` those of the hub and of dataset folders
`gold`          the gold answer in a row
`rows`          a row read, and verl's row
`filters`       levels, samples, duplicates, prompts that are too long
`overlap`       whether two questions are the same, or nearly
`exclude`       questions that occur in an evaluation set
`gold_check`    the verifier's word on each gold
`card`          the data card, and writing it beside the parquet
`preparation`   what is to be prepared
`prepare`       all of it, in order
`command`       the command line
==============  ========================================================================
"""

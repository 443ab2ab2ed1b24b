"""Attacks every command with hostile and odd inputs, and kills it at random moments: python -m tests.hostile

    case        one attack: a command, its folder, and what it may do
    process     runs a command in a forked process, and sees what it opens, starts and needs
    judge       the contract of the commands; what of an outcome breaks it
    outputs     whether a file that a command has written can be read
    originals   valid images, configs, checkpoints, a run, …: what the attacks start from
    films       small valid films
    mutate      random changes of bytes and of nested values
    inputs      the families of hostile inputs: configs, checkpoints, states, images, options, kept, archives, disks,
                jobs, films
    kills       commands that are killed at a random moment and run again
    campaign    many attacks, two at a time; the table at the end

Every attack follows from the seed and its number alone: `-only N` runs one again, and keeps its files.
"""

__all__: list[str] = []

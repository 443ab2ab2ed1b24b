"""Training: `Trainer` is a run, from a config to checkpoints that resume exactly.

    trainer     the loop: epochs, curves, validation, checkpoints, an orderly stop
    step        one update of the weights from one batch
    state       all that training changes, saved and restored
    validation  scores, images and the health of the encoder
    build       from a config to the network and the samples
    folder      the run folder
    losses      losses by name
    schedule    optimisers and learning-rate schedules by name; muon is one of the optimisers
    ema         the moving average of the weights
    pretrain    the start from a stage-1 checkpoint
    record      log.txt, TensorBoard and the pace; health: dead channels
"""
__all__ = ['build', 'ema', 'folder', 'health', 'losses', 'muon', 'pretrain', 'record', 'schedule', 'state', 'step',
           'trainer', 'validation']

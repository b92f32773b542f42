"""lumin reproduces Panambur, Madhu, Maier: luminal subtypes in full mammograms (arXiv:2301.09282).

Read `reproduce.py` first: the paper as one plain function. A folder imports only from those above
it, and nothing from those beside it.

    errors, exact   what a user can cause; seeds, hashes, atomic writes
    locks           between processes, on a cluster's shared disk as well
    paper/          what the paper states, published, and leaves open
    data/           sheet and headers -> Mammogram; DICOM -> crop; image store; split
    training/       the five tasks, augmentation, network, fit and predict
    evaluation/     metrics, inference, cells, tables
    cmmd/           download, corrections, the synthetic cohort
    reproduce       the paper, start to end
    run/            a study in an outputs folder: options, stages, jobs, manifest, verification
    figures/        curves, Figure 2, Grad-CAM, the report page
    beyond/         audit of the published figures, the sheet alone, did it reproduce, many seeds,
                    one choice changed, the negative control
"""

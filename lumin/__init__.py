"""lumin reproduces Panambur, Madhu, Maier: luminal subtypes in full mammograms (arXiv:2301.09282).

The map of the house. Data flows downwards; a module imports only what is named after its arrow.

    paper       what the paper states, leaves unstated, and published    <- nothing
    stats       F1, AUC, intervals, tests; arrays in, numbers out        <- nothing
    record      atomic writes, hashes, the manifest                      <- nothing
    sheet       the clinical sheet -> labelled breasts                   <- paper
    corrections CMMD's known defects, mended                             <- sheet
    cohort      sheet + DICOM headers -> Mammogram records               <- paper, sheet, corrections
    anatomy     pictures of synthetic breasts, in millimetres            <- paper
    phantom     the synthetic cohort, written as CMMD would be           <- paper, anatomy
    fetch       CMMD and the clinical sheet, downloaded and verified     <- record
    breast      where the breast is in a mammogram                       <- nothing
    preprocess  DICOM pixels -> 8-bit breast crops; the image store      <- paper, record, breast
    split       patients -> test set and five folds                      <- paper
    audit       the published numbers, re-derived from each other        <- paper, stats
    tasks       Task and the five rows that are the paper                <- paper
    augment     the four augmentations, batched, keyed per sample        <- paper
    network     ResNet-18, its weights, the machine it computes on       <- paper, tasks
    train       fit(), predict(): one fold of one task     <- paper, tasks, augment, network, record
    jobs        many trainings at once, followed and stopped             <- network, tasks, record, train
    results     predictions -> cells, intervals, tests                   <- paper, tasks, stats
    tables      results -> the paper's tables as Markdown and JSON       <- paper, stats, results
    verify      do tables follow from predictions, from weights?    <- paper, preprocess, record, network, tables, tasks, train
    replication Tables 2a and 2b over many seeds                         <- paper, results, tables
    gradcam     Grad-CAM of the MLMC network                             <- augment, network
    pointing    does the hottest point lie in the lesion?                <- nothing
    figures     curves, losses, Table 2 as dots                          <- paper, tasks, stats, results
    figure2     the paper's Figure 2, and twelve more images             <- paper, tasks, stats, results, tables, figures
    report      one self-contained HTML page                             <- paper, tasks
    doctor      is this machine ready?                                   <- paper, network
    sensitivity one choice made otherwise: what moves                    <- paper, results, split, stats, tables, tasks
    spreads     pictures of many studies                                 <- paper, figures, sensitivity
    options     what is asked for -> a Study                             <- paper, network, record, tasks, train
    study <- paper, sheet, corrections, cohort, options, phantom, preprocess, record, split, tasks, network, train, tables
    work        stages by one process at a time, trainings as one pool  <- paper, options, record, split, train, jobs, study
    series      the study with other seeds, and with choices made otherwise <- paper, options, cohort, network, record, tasks, tables, sensitivity, study, work
    gallery <- cohort, preprocess, record, options, network, tables, tasks, train, gradcam, pointing, figures, figure2, report, spreads

study is one outputs folder, where the rooms meet; work fills it, series fills many, gallery draws it. repro.py is the
command line.
"""  # noqa: E501

"""MARS: the recipe that the reference's code ships, every hyper-parameter spelt out.

Source of each value unless noted: Jiang et al. (AAAI 2020) and its published training script. The
other configs start from this one and change what differs. Any value can be set on the command
line: `--config.optimizer.name=adam`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the configuration; `stf_jax.config.check_config` says which values are allowed."""
    config = ConfigDict()
    config.seed = 0
    # "" | a weights file (.safetensors, .npz, .pth) | hf://owner/repo/file | another run's workdir.
    # The reference starts from ImageNet weights: convert torchvision's ResNet-50 and name it here.
    config.pretrained = ""
    # Leave parts as initialised that the file of `pretrained` lacks (an ImageNet backbone has no
    # embedding, attentions and classifier); without it, a file that does not fit is an error.
    config.pretrained_partial = False
    # Steps first,last to write a profiler trace of; () writes none.
    config.profile_steps = ()
    # Where compiled programs are kept between runs; "" is the user's cache folder, "off" nowhere.
    config.compilation_cache = ""

    data = config.data = ConfigDict()
    data.root = "data/mars"
    data.partitions = "partitions.pkl"
    data.source = "folder"  # or "tfds": root is the folder of the built tfds data set
    data.train_subset = "trainval"  # what the reference trains on; or "train"
    data.eval_subset = "test"  # or "val"
    data.height, data.width = 384, 128  # pixels, bilinear
    data.sampler = "tracklet"  # or "identity": P identities x K tracklets, for the triplet loss
    data.tracklets_per_device = 4  # B; the reference's batch on its one GPU
    data.tracklets_per_identity = 4  # K of the identity sampler; P is B / K
    data.min_frames, data.max_frames = 5, 25  # frames drawn from a tracklet, uniform between
    data.frame_buckets = 6  # packed batch sizes compiled at most
    data.on_corrupt = "error"  # or "skip": drop unreadable images, counted and logged
    data.threads = 0  # decoding threads, 0: as tf.data sees fit

    augment = config.augment = ConfigDict()  # method.md's names; see stf_jax/data/augment.py
    augment.mirror = 0.5  # every frame on its own
    augment.blur = 0.1  # Gaussian, kernel 1 or 3 (sigma 0.8)

    model = config.model = ConfigDict()
    model.backbone = "resnet50"
    model.last_stride = 1
    model.last_dilation = 1
    model.stages = (2, 4)  # the paper's figure shows three parts: (2, 3, 4)
    model.num_stripes = 1
    model.embed_dim = 4096
    model.frame_attention = ("intra", "inter")
    model.stage_attention = "mean"  # or "learned", the paper's semantic attention
    model.relation_padding = "mask"  # or "reference", for weights trained by the published code
    # As published, no frame outweighs another by more than 2:1; False: softmax over time.
    model.bounded_attention = True
    model.dtype = "float32"  # or "bfloat16"
    model.remat = False  # recompute instead of store: less memory, more time

    loss = config.loss = ConfigDict()
    loss.label_smoothing = 0.1
    loss.triplet_weight = 0.0  # batch-hard triplet loss next to the cross entropy; 0 is off
    loss.triplet_distance = "euclidean"  # or "cosine"
    loss.triplet_margin = "soft"  # or a number as text, "0.3", in units of the distance

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "sgd"  # or "adam", "adamw"
    optimizer.momentum = 0.9
    optimizer.nesterov = True
    optimizer.weight_decay = 5e-4  # on every parameter
    optimizer.lr_backbone = 1e-4
    optimizer.lr_classifier = 1e-3
    optimizer.lr_rest = 1e-4
    optimizer.schedule = "staircase"  # or "cosine"
    optimizer.staircase_epochs = (15, 30, 40, 50, 60, 70)  # 1-based: from the start of these
    optimizer.staircase_factor = 0.2
    optimizer.warmup_epochs = 0.0
    optimizer.classifier_only_epochs = 0  # the reference's option: 20
    optimizer.classifier_only_lr = 0.1
    optimizer.clip_norm = 0.0  # global gradient norm; 0 is off
    optimizer.accumulate = 1  # batches an update

    train = config.train = ConfigDict()
    train.epochs = 200
    train.max_steps = 0  # stop after so many steps; 0: after the epochs
    train.evaluate_every = 5  # epochs; a checkpoint is written then, too; 0: at the end only
    train.checkpoint_minutes = 20.0  # a checkpoint at least so often within an epoch; 0: never
    train.evaluate_before = False  # score the weights that training starts from, too
    train.log_every = 20  # steps
    train.sync_batch_norm = False  # the reference's statistics are per device
    train.parallel = "pmap"  # or "shard_map" over jit, its successor: the same results

    evaluation = config.evaluation = ConfigDict()
    evaluation.chunk = 25  # frames
    evaluation.chunk_weighting = "mean"  # or "frames": weigh a chunk by its frames
    evaluation.frames_per_device = 100  # packed frames in a batch
    evaluation.protocols = ("step",)  # "step", "step+queries", "mars-official"
    evaluation.max_rank = 50
    evaluation.distance = "euclidean"  # or "cosine"
    evaluation.flip = False  # mean of a tracklet's feature and its mirror image's
    evaluation.rerank = False  # k-reciprocal re-ranking
    # "" | "mean" | "max": pool the query features of each (person, camera) into one query; with
    # tracklets marked multi-query, where the layout has any.
    evaluation.multi_query = ""
    # CMC as CUHK03 reports it: galleries of one tracklet an identity, drawn 100 times by `seed`.
    evaluation.single_gallery_shot = False
    # Leave out everybody of the query's camera, not its own identity there alone.
    evaluation.separate_camera_set = False
    return config

"""MARS: the recipe that the reference's code ships, every hyper-parameter spelt out.

Source of each value unless noted: Jiang et al. (AAAI 2020) and its published training script. These
are the defaults of `stf_jax.config`, which says, too, what each key may hold. The other configs
start from this one and change what differs. Any value can be set on the command line:
`--config.optimizer.name=adam`.
"""

from stf_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        seed=0,  # of weights, order and augmentation
        # starting weights: a file (.safetensors, .npz, .pth), hf://owner/repo/file, another run's
        # workdir; "none": random. By default torchvision's first ImageNet ResNet-50 (BSD-3)
        pretrained="hf://timm/resnet50.tv_in1k/model.safetensors#sha256="
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        # leave parts that the file lacks as initialised; without it, a file that does not fit is
        # an error, unless it has a backbone alone, as ImageNet classifiers do
        pretrained_partial=False,
        profile_steps=(),  # first and last step to write a profiler trace of; () writes none
        # folder of compiled programs; "" is the user's cache folder, "off" none
        compilation_cache="",
        data=DataConfig(
            root="data/mars",  # folder of the layout, or of what was made from it
            partitions="partitions.pkl",  # lists of the subsets' images
            source="folder",  # or root is "tfds", a built data set, or "decoded", their frames
            train_subset="trainval",  # what the reference trains on; or "train"
            eval_subset="test",  # or "val"
            height=384,  # pixels, resized bilinearly
            width=128,  # pixels
            sampler="tracklet",  # or "identity": P identities x K tracklets, for the triplet loss
            tracklets=4,  # B of a step, on all devices together; the reference's batch
            tracklets_per_identity=4,  # K of the identity sampler; P is B / K
            min_frames=5,  # frames drawn from a tracklet: uniform from this
            max_frames=25,  # to this
            # or "segments": one at random of each of as many equal parts
            frame_sampling="random",
            frame_buckets=6,  # packed batch sizes compiled at most
            on_corrupt="error",  # or "skip" images that cannot be decoded, counted and logged
            max_lost=0.1,  # share of an epoch's images that training may skip; no step may lose all
            threads=0,  # decoding threads; 0: as many as usable cores
        ),
        augment=AugmentConfig(
            per="frame",  # is drawn for; or "tracklet": alike in its frames
            mirror=0.5,  # probability of mirroring left to right
            blur=0.1,  # probability of a Gaussian blur
            blur_kernels=(1, 3),  # odd kernel sizes, equally likely; 1 is no blur
            blur_sigma=0.8,  # pixels
            crop=0.0,  # probability of padding all sides, then cropping the old size
            crop_padding=0.1,  # of a side, as a share of height or width
            hsv=0.0,  # probability of colour jitter in 8-bit HSV, uniform in +- limit
            hsv_hue=10,  # limit; one is two degrees
            hsv_saturation=30,  # limit, of 255
            hsv_value=30,  # limit, of 255
            erase=0.0,  # probability of filling a random rectangle with the image mean
            erase_area=(0.02, 0.4),  # its share of the frame, uniform
            erase_aspect=(1.5, 4.0),  # its height / width, uniform
            # probability of keeping the top part only, of images with h/w > 1.5
            horizontal_crop=0.0,
            horizontal_crop_keep=(0.5, 1.0),  # share of the height that is kept, uniform
            pad_ratio=0.0,  # h/w that all images are padded to; 0: off, 3: usual
        ),
        model=ModelConfig(
            # or "resnet18", "resnet34", "resnet101", "resnet152", "mobilenet_v2"
            backbone="resnet50",
            last_stride=1,  # of the last stage; or 2, which halves its maps
            last_dilation=1,  # of the last stage; or 2
            stages=(2, 4),  # stages fused; the paper's figure shows three: (2, 3, 4)
            num_stripes=1,  # S, horizontal parts of a map
            pooling="mean",  # over a stripe of a map; or "max"
            embed_dim=4096,  # C, channels of a stripe's feature
            frame_attention=("intra", "inter"),  # their mean weighs frames; (): all frames equally
            # or "learned", the paper's semantic attention; or "gated": the last stage, and of the
            # others a share that is learnt from 0
            stage_attention="mean",
            # BatchNorm's at test; or "own": of each stage's fused maps by themselves
            tail_statistics="shared",
            # or "bnneck": triplets before a last BatchNorm, classifier after it
            neck="none",
            neck_feature="after",  # the neck, is what is compared at test; or "before" it
            relation_padding="mask",  # or "reference", for weights trained by the published code
            # as published, no frame outweighs another by more than 2:1; False: softmax over time
            bounded_attention=True,
            dtype="float32",  # of the arithmetic; or "bfloat16"
            remat=False,  # recompute instead of store: less memory, more time
        ),
        loss=LossConfig(
            label_smoothing=0.1,  # of the cross entropy
            triplet_weight=0.0,  # of an additional batch-hard triplet loss; 0 is off
            triplet_distance="euclidean",  # or "cosine"
            triplet_margin="soft",  # or a number, in units of the distance
            stage_weight=0.0,  # of the same losses on each stage's own feature; 0 is off
        ),
        optimizer=OptimizerConfig(
            name="sgd",  # or "adam" (weight decay in the gradient), "adamw"
            momentum=0.9,  # of SGD; Adam's two are 0.9 and 0.999
            nesterov=True,  # of SGD
            weight_decay=5e-4,  # on every parameter
            lr_backbone=1e-4,  # learning rate of the backbone
            lr_classifier=1e-3,  # of the classifier
            lr_rest=1e-4,  # of embedding and attentions
            schedule="staircase",  # or "cosine", to zero at the last step
            staircase_epochs=(15, 30, 40, 50, 60, 70),  # counted from 1: from the start of these
            staircase_factor=0.2,  # of the learning rates at each
            warmup_epochs=0.0,  # linear, after the classifier-only epochs
            classifier_only_epochs=0.0,  # before all others; the reference's option: 20
            classifier_only_lr=0.1,  # learning rate in them
            clip_norm=0.0,  # greatest global norm of the gradient; 0 is off
            accumulate=1,  # batches an update
        ),
        train=TrainConfig(
            epochs=200,  # each has every training tracklet (or identity) once
            max_steps=0,  # stop after so many steps; 0: after the epochs
            evaluate_every=5,  # epochs; a checkpoint is written then, too; 0: at the end only
            checkpoint_minutes=20.0,  # at least so often within an epoch; 0: never
            evaluate_before=False,  # score the weights that training starts from, too
            log_every=20,  # steps
            sync_batch_norm=False,  # over devices; the reference's statistics are per device
            parallel="pmap",  # over local devices; or "shard_map", its successor
        ),
        evaluation=EvaluationConfig(
            chunk=25,  # frames of a tracklet that are fused at once
            chunk_weighting="mean",  # or "frames": weigh a chunk by its frames
            frames_per_device=100,  # packed frames in a batch
            # or "step+queries", "mars-official"; the first chooses the best checkpoint
            protocols=("step",),
            max_rank=50,  # of the CMC curve
            distance="euclidean",  # or "cosine"
            # or "gallery", "training": whose mean feature of each camera is taken off
            centring="none",
            flip=False,  # mean of a tracklet's feature and its mirror image's
            rerank=False,  # k-reciprocal re-ranking
            # or "mean", "max": pool the query features of each (person, camera) into one query;
            # with tracklets marked multi-query, where the layout has any
            multi_query="",
            # CMC as CUHK03 reports it: galleries of one tracklet an identity, drawn 100 times
            single_gallery_shot=False,
            # leave out everybody of the query's camera, not its own identity there alone
            separate_camera_set=False,
        ),
    )

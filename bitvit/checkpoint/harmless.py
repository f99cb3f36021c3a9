"""Names in a config.json or among a training script's options that change nothing about inference.

A name that is neither here nor in claims.py may change the network, so a conversion stops at it. What is here was read
in the code of the authors and of two forks (SPEC 2, 7.9), in the training scripts of DeiT and timm that theirs descend
from, and in what the trainers of transformers and Lightning store.
"""

import re

__all__ = ["is_harmless", "names_classes", "says_nothing"]

# What BHViT's code does not look at, or what works in training only (SPEC 2).
_NETWORK = """
    architectures attention_probs_dropout_prob avg_res3 avg_res5 chunk_size_feed_forward cls_token_num drop
    drop_block drop_block_rate drop_path drop_path_rate drop_rate dropout enable_cls_ enable_cls_token
    encoder_stride hidden_act hidden_dropout_prob initializer_range layer_norm_eps model_type num_hidden_layers
    num_labels pe_interpolate_mode pooler_act pooler_output_size pruned_heads qkv_bias recu stages token_num
"""

# transformers: of any model, or of text generation
_TRANSFORMERS = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _name_or_path
    add_cross_attention attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty license max_length
    min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty
    return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache
"""

# DeiT's and timm's scripts, the authors' and the forks': data, optimiser, schedule, augmentation, files, processes
_TRAINING = """
    aa accum_freq accum_iter accumulate_grad_batches accumulation_steps adam_beta1 adam_beta2 adam_epsilon alpha
    amp amp_dtype amp_impl apex_amp arch attn_max_images attn_viz aug_repeats aug_splits auto_augment auto_resume
    autocast batch batch_size bce_loss bce_sum bce_target_thresh benchmark best_acc betas betas2 bn_momentum cache
    cache_mode callbacks channels_last checkpoint checkpoint_dir checkpoint_hist checkpoint_path ckpt class_map
    class_names class_weights classes clip_grad clip_grad_norm clip_mode cls_weights color_jitter color_jitter_prob
    comment compile config config_file config_path cooldown_epochs cosine crop_pct cuda current_best_model cutmix
    cutmix_minmax cutmix_prob data data_dir data_len data_path data_root data_set dataset dataset_download
    dataset_trust_remote_code datasets debug decay_epochs decay_milestones decay_rate deepspeed deterministic
    device device_modules devices dist_backend dist_eval dist_on_itp dist_url distillation_alpha distillation_tau
    distillation_type distributed early_stop early_stopping_patience ema ema_decay epoch epoch_repeats epochs eps
    eval eval_batch_size eval_checkpoint eval_crop_ratio eval_every eval_freq eval_metric eval_only evaluate
    every_n_epochs exp exp_id exp_name experiment finetune fold fold_idx folds force_cpu fp16 freeze_epochs fuser
    gamma gpu gpu_id gpu_ids gpus grad_accum grad_accum_steps grad_checkpointing grad_clip
    gradient_accumulation_steps gradient_clip gradient_clip_val h_flip head_init_bias head_init_scale hflip
    imagenet_path img_dir inat_category init_from initial_checkpoint inplace input_key interpolation interval iters
    jsd_loss k_fold kd kd_alpha kd_temperature kfold kwargs label_smoothing layer_decay learning_rate load load_tar
    local log_dir log_every log_every_n_steps log_freq log_interval log_wandb logdir logger logging loss lr lr_base
    lr_base_scale lr_base_size lr_cycle_decay lr_cycle_limit lr_cycle_mul lr_decay lr_ep lr_epochs lr_k_decay
    lr_min lr_noise lr_noise_pct lr_noise_std lr_scheduler lr_steps lr_warmup master_addr master_port max_epochs
    max_grad_norm max_iters max_steps mean min_loss min_lr mix_prob mixed_precision mixup mixup_alpha mixup_mode
    mixup_off_epoch mixup_prob mixup_switch_prob model model_config model_ema model_ema_cpu model_ema_decay
    model_ema_eval model_ema_force_cpu model_ema_warmup model_name momentum monitor mp_start_method
    multiprocessing_distributed n_gpu name native_amp nesterov ngpus_per_node nnodes no_aug no_cuda no_ddp_bb
    no_model_ema no_pin_mem no_prefetcher no_repeated_aug no_resume_opt no_strict_load node_rank nodes notes
    nproc_per_node num_epochs num_folds num_gpus num_nodes num_steps num_workers opt opt_betas opt_eps opt_kwargs
    optim optimizer out out_dir output output_dir overwrite patience patience_epochs persistent_workers pin_mem
    pin_memory port precision prefetch_factor pretrained pretrained_path print_freq print_interval profile profiler
    progress_bar project project_name rank ratio recount recovery_interval regularization_loss remode repeated_aug
    report_to reprob rescale resplit resume resume_checkpoint resume_from root run_id run_name samples_per_class
    save_dir save_every save_freq save_images save_path save_top_k scale scaler sched sched_on_updates schedule
    scheduler seed simple_aug smoothing split split_bn split_ratio src ssl start_epoch std step_size steps strategy
    subset sync_bn sync_bn_type T_max tag tags teacher teacher_ckpt teacher_model teacher_model_file
    teacher_model_type teacher_path temp tensorboard test test_batch_size test_dir test_freq test_path test_split
    throughput tmp torchcompile torchscript train_crop_mode train_dir train_interpolation train_mode
    train_num_samples train_only train_path train_split transfer tta turnoff_color_jitter unfreeze_epochs
    unscale_lr use_amp use_checkpoint use_multi_epochs_loader use_wandb val_batch_size val_check_interval val_dir
    val_every val_fraction val_freq val_interval val_num_samples val_path val_ratio val_split validation_batch_size
    verbose version vflip viz_attn viz_every viz_samples warmup warmup_decay warmup_epochs warmup_lr warmup_lr_init
    warmup_prefix warmup_ratio warmup_steps weight_decay weight_decay_end weight_decay_schedule weighted_sampler
    weights work_dir worker_seeding workers workspace world_size zero
"""

# The Trainers of transformers and Lightning, hydra, and further options of timm's and MAE's scripts
_TRAINERS = """
    _class_path _convert_ _instantiator _partial_ _recursive_ _target_ accelerator accelerator_config adafactor
    auto_find_batch_size average_tokens_across_devices base_lr bce_pos_weight best_acc1 best_epoch bf16
    bf16_full_eval blr cache_dir check_val_every_n_epoch ckpt_dir ckpt_path class_path class_weight command commit
    criterion cudnn_benchmark cudnn_deterministic cwd data_seed dataloader_drop_last dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor datamodule date
    default_root_dir disable_tqdm dist_bn do_eval do_predict do_train drop_last enable_progress_bar enforce_tags
    eta_min eval_accumulation_steps eval_data_path eval_delay eval_do_concat_batches eval_on_start eval_steps
    eval_strategy evaluation_strategy exp_dir extras fast_dev_run fold_id fp16_backend fp16_full_eval
    fp16_opt_level fsdp full_determinism gaussian_blur_prob git_commit git_hash grad_clip_norm
    gradient_checkpointing gradient_checkpointing_kwargs grayscale_prob greater_is_better group_by_length
    half_precision_backend host hostname hub_always_push hub_model_id hub_private_repo hub_strategy hub_token
    hydra ignore_data_skip ignore_warnings include_for_metrics include_inputs_for_metrics
    include_num_input_tokens_seen include_tokens_per_second jit_mode_eval kd_distill_type kd_loss_type
    kd_model_name kfolds label_names label_smoothing_factor layer_decay_min_scale layer_decay_no_opt_scale
    length_column_name limit_test_batches limit_train_batches limit_val_batches load_best_model_at_end local_rank
    log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter
    logging_steps logging_strategy loss_fn loss_type lr_gamma lr_scheduler_kwargs lr_scheduler_type lr_step
    manual_seed max_time metric metric_for_best_model metrics min_delta mp_parameters n_splits
    neftune_noise_alpha num_iterations num_sanity_val_steps num_train_epochs num_train_samples optim_args
    optim_target_modules optimizer_name optimizer_type overwrite_output_dir past_index paths
    per_device_eval_batch_size per_device_train_batch_size pos_weight prediction_loss_only prefetcher
    print_config print_every push_to_hub random_erasing random_seed random_state remove_unused_columns
    restore_callback_states_from_checkpoint resume_from_checkpoint resume_path sampler save_best save_ckpt
    save_ckpt_freq save_ckpt_num save_last save_on_each_node save_only_model save_safetensors save_steps
    save_strategy save_total_limit scheduler_name scheduler_type seed_everything shuffle skip_memory_metrics
    synchronize_step target_key task_name tf32 time timestamp torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps torchcompile_mode total_epochs total_steps tpu_num_cores train
    train_batch_size trainer update_freq use_cpu use_ema use_fp16 use_tensorboard user warmup_factor
    warmup_iters warmup_method warmup_start_lr wd wd_end weights_path
"""

# Of an image processor of transformers
_IMAGES = """
    crop_size do_center_crop do_convert_rgb do_normalize do_rescale do_resize feature_extractor_type image_mean
    image_processor_type image_std preprocessor_config resample rescale_factor
"""

# What containers and trainers keep of their own under names with an underscore
_PRIVATE = """
    _allow_dotted_keys _box_config _convert_dict _env_variables _filename _key _locked _n_gpu _output_attentions _parent
    _text _type_safe
"""

# Words of an optimiser or of augmentation among a script's options, which in a config.json may be the network's
_UNCLEAR = "alpha eps ratio scale temp"

# Families that scripts invent names in
_BEGINNINGS = (
    "wandb_",
    "neptune_",
    "mlflow_",
    "comet_",
    "tensorboard_",
    "tb_",
    "slurm_",
    "ddp_",
    "fsdp_",
    "deepspeed_",
    "teacher_",
)

# Names of classes, whose own fields are anything
_CLASSES = """
    class_map class_mapping class_names class_to_id class_to_idx class_to_label classes id2label id2name id_to_class
    id_to_name idx2class idx2label idx_to_class idx_to_label label2id label2idx label_map label_mapping label_to_id
    label_to_idx labels
"""

# Kinds of objects that are no settings: moments, places, and what libraries of training and of data make. By the first
# words of a class's dotted name; of torch.nn.modules only losses.
_KINDS = re.compile(
    r"(?:datetime|http|ipaddress|random|signal|time|uuid|zoneinfo"
    r"|torch(?!\.nn\.modules\.(?!loss\.))|torchaudio|torchmetrics|torchvision(?!\.models\.)"
    r"|accelerate|lightning\w*|pytorch_lightning|ignite|transformers\.train\w*|timm\.(?:data|loss|optim|scheduler|utils)"
    r"|PIL|albumentations|kornia|logging|loguru|pandas|sklearn|tqdm|wandb)\."
)
_GENERATOR = "NumPy random generator"

_NAMING_CLASSES = frozenset(_CLASSES.split())
_UNCLEAR_WORDS = frozenset(_UNCLEAR.split())
_HARMLESS = frozenset((_NETWORK + _TRANSFORMERS + _TRAINING + _TRAINERS + _IMAGES + _PRIVATE).split())


def is_harmless(name: str, *, of_network: bool = False) -> bool:
    """Whether a field of a config.json, or a stored option, is known to change nothing about inference.

    of_network: it stands in a config.json, among what describes the network.
    """
    if of_network and name in _UNCLEAR_WORDS:
        return False
    return name in _HARMLESS or name.startswith(_BEGINNINGS)


def names_classes(name: str) -> bool:
    """Whether a field holds the names of the classes."""
    return name in _NAMING_CLASSES


def says_nothing(kind: str) -> bool:
    """Whether an object of a kind, such as 'datetime.date', is no setting of anything that computes."""
    return kind == _GENERATOR or _KINDS.match(kind) is not None

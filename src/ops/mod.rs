//! Every operation: maths, CPU version, kernel launch, gradient rule, cases. One file or folder per op.

pub mod case;
pub mod columns;
mod row_loss;
pub mod vectorize;

use case::Case;

macro_rules! registry {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*
        /// All ops with their case tables, in one list: tests, benches and `inspect` walk it.
        pub fn registry() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($name), $name::cases())),*]
        }
    };
}

registry! {
    accuracy,
    activation,
    adaround,
    attention_center,
    attention_map,
    batch_norm,
    bn_stats_loss,
    channel_affine,
    channel_stats,
    cluster_loss,
    concat,
    conv2d,
    conv2d_depthwise,
    conv2d_depthwise_int,
    conv2d_grouped,
    conv2d_grouped_int,
    conv2d_int,
    conv_block,
    conv_bn_tune,
    conv_stats,
    correlation_inhibition,
    crop_flip,
    dkd,
    elementwise,
    embedding,
    entropy,
    fake_quant,
    gate,
    gated_cross_entropy,
    gather_channels,
    grad_cam,
    integer_layer,
    linear,
    logits_loss,
    loss,
    low_pass,
    lrn,
    margin_cross_entropy,
    marginal_distance,
    mse,
    observe,
    pair_loss,
    pool,
    prelu,
    qdrop,
    random,
    range_search,
    reflect_shift,
    reshape,
    resize,
    roll,
    sample_norm,
    sample_stats,
    shortcut,
    sign_step,
    slack_stats_loss,
    soft_label,
    total_variation,
    tune_stats,
    unit_range,
    weight_quant,
}

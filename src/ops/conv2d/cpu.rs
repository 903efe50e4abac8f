//! Blocked f32 path.
pub(super) use super::plain::{dgrad, fprop, upsample_dgrad, upsample_fprop, upsample_wgrad, wgrad};

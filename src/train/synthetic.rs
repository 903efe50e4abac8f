//! What generators and stored images hand to the student.

use crate::tensor::Tensor;

/// One batch: images `[n h w c]`, their labels I32 `[n]`, the teacher's logits `[n classes]` where they are known already.
pub struct Synthetic {
    pub images: Tensor,
    pub labels: Tensor,
    pub teacher_logits: Option<Tensor>,
}

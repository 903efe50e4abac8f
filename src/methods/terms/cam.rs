//! SynQ's alignment of class activation maps: student and teacher must look at the same place.

use super::{Heads, StudentTerm, StudentView, not_negative, served};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::accuracy::argmax;
use crate::ops::activation::{Activation, activation};
use crate::ops::grad_cam::grad_cam;
use crate::ops::mse::mse;
use crate::ops::unit_range::unit_range;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `MSE(m(S), m(T))`, `m` the Grad-CAM map of the predicted class, each image's map stretched to 0..1 (SynQ, Kim et al.,
/// ICLR 2025; weight 50 in its script for ImageNet, 20 to 2000 in the paper). As in the released code only channels that
/// speak for the class count (weights below 0 become 0), and channel weights are constants: the gradient flows through the
/// student's feature map alone.
///
/// Ours: the map is of the features that are pooled, where channel weights are rows of the linear layer in closed form (the
/// released code: of the last convolution, before its batch norm), and is compared at its own size (there: enlarged to the
/// image's, which weighs pixels a little differently).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cam {
    pub weight: f32,
    pub class: CamClass,
}

/// Whose prediction the student's map is for. The teacher's map is always for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CamClass {
    /// The teacher's: both maps are of one class.
    Teacher,
    /// The student's own, as in the released code.
    Own,
}

impl Default for Cam {
    fn default() -> Self {
        Self { weight: 50.0, class: CamClass::Teacher }
    }
}

impl StudentTerm for Cam {
    fn name(&self) -> &'static str {
        "cam"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs_head(&self) -> bool {
        true
    }
    fn needs_host(&self) -> bool {
        true
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        teacher.map_or(Ok(()), |g| served(self.name(), g.pooled_head(self.name())))
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        let Heads { map, weight, teacher_map, teacher_weight } = view.heads.as_ref().expect("asked for by needs_head");
        let predicted = |logits: &Tensor| Tensor::from_slice(&logits.device(), [logits.dim(0)], &argmax(logits)?);
        let theirs = predicted(view.teacher_logits)?;
        let ours = match self.class {
            CamClass::Teacher => theirs.clone(),
            CamClass::Own => predicted(&view.logits.value)?,
        };
        let target = class_map(tape, &Var::constant((*teacher_map).clone()), teacher_weight, &theirs)?;
        let found = class_map(tape, map, weight, &ours)?;
        mse(tape, &found, &target)
    }
}

/// The map `[n h w]` of features `[n h w c]` for one class each, in 0..1.
fn class_map(tape: &mut Tape, features: &Var, weight: &Tensor, classes: &Tensor) -> Result<Var> {
    let positive = activation(tape, &Var::constant(weight.clone()), Activation::Relu)?.value;
    let cam = grad_cam(tape, features, &positive, classes)?;
    unit_range(tape, &cam)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn equal_features_differ_only_by_the_class_looked_for() {
        let d = Device::cpu();
        let of = |shape: &[usize], values: &[f32]| Tensor::from_slice(&d, shape, values).unwrap();
        // Four pixels of two channels; each class reads one channel, and class 1 also minds the other.
        let map = of(&[1, 2, 2, 2], &[1.0, 0.0, 3.0, 1.0, 2.0, 5.0, 0.0, 2.0]);
        let weight = of(&[2, 2], &[1.0, 0.0, -1.0, 1.0]);
        let (first, second) = (of(&[1, 2], &[2.0, 1.0]), of(&[1, 2], &[1.0, 2.0]));
        let loss = |class: CamClass, student: &Tensor| {
            let heads = Heads {
                map: Var::constant(map.clone()),
                weight: weight.clone(),
                teacher_map: &map,
                teacher_weight: weight.clone(),
            };
            let view = StudentView {
                logits: Var::constant(student.clone()),
                labels: &Var::constant(of(&[1], &[0.0])),
                teacher_logits: &first,
                bodies: Vec::new(),
                teacher_bodies: &[],
                heads: Some(heads),
            };
            let cam = Cam { class, ..Cam::default() };
            cam.loss(&mut Tape::inference(&d), &view).unwrap().value.item().unwrap()
        };
        assert_eq!(loss(CamClass::Teacher, &second), 0.0);
        assert_eq!(loss(CamClass::Own, &first), 0.0);
        // (1, 3, 2, 0) / 3 against (0, 1, 5, 2) / 5.
        let want = [1.0 / 3.0, 1.0 - 0.2, 2.0 / 3.0 - 1.0, -0.4].iter().map(|v| v * v).sum::<f64>() / 4.0;
        assert!((loss(CamClass::Own, &second) - want).abs() < 1e-6);
    }
}

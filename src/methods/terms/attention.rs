//! What counts as the teacher's attention: a choice of ACQ's terms, whose paper's definition is not public.

use super::{TeacherView, served};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Graph};
use crate::ops::grad_cam::grad_cam;
use crate::ops::reshape::reshape;
use serde::{Deserialize, Serialize};

/// Which map of the last features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionName {
    /// The features themselves, to be summed over channels (Zagoruyko, Komodakis 2017).
    #[default]
    Activation,
    /// Grad-CAM of the class that the image was made for (Selvaraju et al. 2017), in closed form: see `ops::grad_cam`.
    GradCam,
}

impl AttentionName {
    /// Errors, naming the term, if `teacher` has no map, or no closed form of Grad-CAM where that is asked for.
    pub(super) fn check(self, term: &str, teacher: Option<&Graph>) -> Result<()> {
        let head = |g: &Graph| match self {
            Self::Activation => g.head(term),
            Self::GradCam => g.pooled_head(&format!("{term}.attention = \"grad_cam\"")),
        };
        teacher.map_or(Ok(()), |g| served(term, head(g)))
    }

    /// What the attention ops read, `[n h w c]`: `features` as they are, or their Grad-CAM map as one channel.
    pub(super) fn of(self, tape: &mut Tape, features: &Var, view: &TeacherView) -> Result<Var> {
        if self == Self::Activation {
            return Ok(features.clone());
        }
        let head = view.teacher.graph.pooled_head("grad_cam")?;
        let weight = view.teacher.linear_weight(&head.weight, Forward::eval())?;
        let cam = grad_cam(tape, features, &weight, &view.conditions.labels.value)?;
        let [n, h, w] = [0, 1, 2].map(|i| cam.shape()[i]);
        reshape(tape, &cam, [n, h, w, 1])
    }
}

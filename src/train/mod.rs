//! The one loop: generator step, student step, calibration, checkpoints, evaluation.

mod calibrate;
mod checkpoint;
mod control;
mod diagnosis;
mod evaluate;
mod generator_step;
mod halves;
mod images;
mod iterate;
pub mod log;
mod loss_log;
mod reconstruct;
mod repeats;
mod run;
mod select;
mod student_step;
mod supervised;
mod synthetic;

pub use diagnosis::{Diagnosis, diagnose};
pub use evaluate::{Accuracy, evaluate, evaluation_batch};
pub use generator_step::GeneratorStep;
pub use images::ImagePool;
pub use reconstruct::BlockReport;
pub use run::{Event, QuantizeRun, Summary, TestSet};
pub use select::{Selected, Tally};
pub use student_step::StudentStep;
pub use supervised::{SupervisedConfig, SupervisedEpoch, train_supervised};
pub use synthetic::Synthetic;

//! Losses of iterations that a GPU has been given but nobody has looked at yet. Reading one waits for the device, so they
//! are kept there and read together. A loss that is no finite number is noticed on the device, where its iteration and
//! term are noted, and stops the run at the next reading: at most [`READ_EVERY`] iterations later, and before any
//! checkpoint or evaluation.

use super::control::Moment;
use crate::device::{Device, Launch};
use crate::methods::{Losses, Recipe, Total};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Iterations between two readings.
pub(super) const READ_EVERY: u64 = 50;

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Generator = 0,
    Student = 1,
}

impl Loss {
    pub fn name(self) -> &'static str {
        ["generator_loss", "student_loss"][self as usize]
    }
}

/// Words before the rows: 1 + 64 loss + value of the first that is not finite or 0, its iteration in two words, itself.
const HEADER: usize = 4;

/// A ring of rows on the device, one per iteration: for each loss the iteration's low word, its terms, their sum.
pub(super) struct LossLog {
    words: Tensor,
    terms: [Vec<&'static str>; 2],
    pending: Vec<(u64, Loss)>,
}

/// Kernel parameters, mirrored in `kernels/control.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Record {
    it: u64,
    counter: u64,
    values: [u64; MOST],
    count: i32,
    start: i32,
    width: i32,
    slots: i32,
    loss: i32,
    unused: i32,
}

/// Terms of a loss and their sum, at most.
const MOST: usize = 32;

impl LossLog {
    pub fn new(device: &Device, recipe: &Recipe) -> Result<Self> {
        let terms = [
            recipe.generator_loss.terms().iter().map(|t| t.name()).collect::<Vec<_>>(),
            recipe.student_loss.terms().iter().map(|t| t.name()).collect(),
        ];
        let width: usize = terms.iter().map(|t| t.len() + 2).sum();
        let words = Tensor::zeros(device, [HEADER + READ_EVERY as usize * width], DType::I32)?;
        Ok(Self { words, terms, pending: Vec::new() })
    }

    fn start(&self, loss: Loss) -> usize {
        if loss == Loss::Generator { 0 } else { self.terms[0].len() + 2 }
    }

    fn width(&self) -> usize {
        self.start(Loss::Student) + self.terms[1].len() + 2
    }

    /// Queues the noting of a loss in iteration `moment`.
    pub fn record(&self, loss: Loss, total: &Total, moment: &Moment) -> Result<()> {
        let values: Vec<&Tensor> = total.values().collect();
        crate::ensure_op!(
            values.len() == self.terms[loss as usize].len() + 1 && values.len() <= MOST,
            "loss log",
            "{} has {} values",
            loss.name(),
            values.len()
        );
        let counter = moment.counter()?;
        let mut p = Record {
            it: moment.it,
            counter: counter.map_or(0, |t| t.address()),
            values: [0; MOST],
            count: values.len() as i32,
            start: self.start(loss) as i32,
            width: self.width() as i32,
            slots: READ_EVERY as i32,
            loss: loss as i32,
            unused: 0,
        };
        for (to, v) in p.values.iter_mut().zip(values) {
            *to = v.address();
        }
        let gpu = self.words.gpu().expect("losses are kept on GPUs only");
        Launch::new("control_record_f32").ptr(self.words.address()).val(p).run(gpu)
    }

    /// Says that iteration `it` has been queued with these losses, in this order.
    pub fn expect(&mut self, it: u64, losses: impl IntoIterator<Item = Loss>) {
        self.pending.extend(losses.into_iter().map(|l| (it, l)));
    }

    /// The losses that came in since the last reading, in order, and the error if one was not finite: then they end before
    /// it. Waits for the device if there are any.
    pub fn read(&mut self) -> Result<(Vec<(u64, Loss, Losses)>, Option<Error>)> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok((Vec::new(), None));
        }
        let words: Vec<u32> = self.words.to_vec::<i32>()?.into_iter().map(|w| w as u32).collect();
        let broken = (words[0] > 0).then(|| {
            let (loss, value) = ((words[0] - 1) / 64, ((words[0] - 1) % 64) as usize);
            let loss = if loss == 0 { Loss::Generator } else { Loss::Student };
            let step = u64::from(words[1]) | u64::from(words[2]) << 32;
            let term = self.terms[loss as usize].get(value);
            let term = term.map_or(loss.name().to_string(), |t| format!("{}.{t}", loss.name()));
            (step, loss, not_finite(step, term, f32::from_bits(words[3])))
        });
        let mut found = Vec::with_capacity(pending.len());
        for (it, loss) in pending {
            if broken.as_ref().is_some_and(|(step, l, _)| (it, loss) == (*step, *l)) {
                break;
            }
            let row = &words[HEADER + (it % READ_EVERY) as usize * self.width() + self.start(loss)..];
            if row[0] != it as u32 {
                return Err(Error::op("loss log", format!("iteration {it} has left no {}", loss.name())));
            }
            let names = &self.terms[loss as usize];
            let values = row[1..].iter().map(|w| f32::from_bits(*w));
            let terms = names.iter().copied().zip(values).collect();
            found.push((it, loss, Losses { total: f32::from_bits(row[1 + names.len()]), terms }));
        }
        Ok((found, broken.map(|b| b.2)))
    }
}

/// What stops a run whose loss is no number.
fn not_finite(step: u64, term: String, value: f32) -> Error {
    Error::NonFinite { step, term, value, hint: "; lower student.lr or generator.lr" }
}

/// Refuses losses that are not finite, naming the term that broke first.
pub(super) fn finite(step: u64, loss: Loss, losses: &Losses) -> Result<()> {
    let broken = losses.terms.iter().find(|(_, v)| !v.is_finite());
    match broken {
        Some((name, v)) => Err(not_finite(step, format!("{}.{name}", loss.name()), *v)),
        None if losses.total.is_finite() => Ok(()),
        None => Err(not_finite(step, loss.name().to_string(), losses.total)),
    }
}

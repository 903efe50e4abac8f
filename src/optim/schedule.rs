//! Learning rate factors over steps.

use crate::{Error, Result};

/// Factor on the base learning rate as a function of the step (or epoch: whatever the caller counts), from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// 1 throughout.
    Constant,
    /// Times `gamma` at every milestone reached (`step >= milestone`).
    MultiStep { milestones: Vec<u64>, gamma: f32 },
    /// Linear from `1 / warmup` to 1 over the first `warmup` steps, then half a cosine from 1 down to `floor` at `total`
    /// (Loshchilov, Hutter 2017), and `floor` after.
    Cosine { warmup: u64, total: u64, floor: f32 },
}

impl Schedule {
    /// Errors, naming the setting, on milestones that do not ascend, or a warmup as long as the whole schedule.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Constant => Ok(()),
            Self::MultiStep { milestones, gamma } => {
                if milestones.windows(2).any(|w| w[0] >= w[1]) {
                    return Err(Error::config("milestones", format!("{milestones:?} do not ascend")));
                }
                if !(*gamma > 0.0 && gamma.is_finite()) {
                    return Err(Error::config("gamma", format!("must be > 0, got {gamma}")));
                }
                Ok(())
            }
            Self::Cosine { warmup, total, floor } => {
                if warmup >= total {
                    let detail = format!("{warmup} warmup steps leave nothing of {total} steps");
                    return Err(Error::config("warmup", detail));
                }
                if !(0.0..=1.0).contains(floor) {
                    return Err(Error::config("floor", format!("must be in 0..=1, got {floor}")));
                }
                Ok(())
            }
        }
    }

    /// The factor at `step`.
    pub fn factor(&self, step: u64) -> f32 {
        match self {
            Self::Constant => 1.0,
            Self::MultiStep { milestones, gamma } => {
                gamma.powi(milestones.iter().filter(|m| step >= **m).count() as i32)
            }
            Self::Cosine { warmup, total, floor } => {
                if step < *warmup {
                    return (step + 1) as f32 / *warmup as f32;
                }
                let done = (step - warmup) as f64 / total.saturating_sub(*warmup).max(1) as f64;
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
                floor + (1.0 - floor) * wave as f32
            }
        }
    }
}

/// A rate that falls when the loss stands still (PyTorch's ReduceLROnPlateau with its defaults): times 0.1 after more
/// than `patience` steps without a loss below `best * (1 - 1e-4)`, never below `least`. NaN is no improvement.
#[derive(Clone, Debug, PartialEq)]
pub struct Plateau {
    rate: f32,
    least: f32,
    patience: u64,
    best: f64,
    bad: u64,
}

impl Plateau {
    pub fn new(rate: f32, patience: u64, least: f32) -> Self {
        Self { rate, least, patience, best: f64::INFINITY, bad: 0 }
    }

    /// The rate of the next step.
    pub fn rate(&self) -> f32 {
        self.rate
    }

    /// Tells the loss of a step.
    pub fn observe(&mut self, loss: f64) {
        if loss < self.best * (1.0 - 1e-4) {
            (self.best, self.bad) = (loss, 0);
            return;
        }
        self.bad += 1;
        if self.bad > self.patience {
            // A rate that starts below `least` stays.
            self.rate = (self.rate * 0.1).max(self.least).min(self.rate);
            self.bad = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plateau_lowers_the_rate_after_patience_and_not_below_the_least() {
        let mut p = Plateau::new(0.5, 2, 0.01);
        let mut rates = Vec::new();
        for loss in [3.0, 2.0, 2.0, 2.0, 1.99999, 1.0, 1.0, 1.0, f64::NAN, 1.0, 1.0, 1.0] {
            p.observe(loss);
            rates.push(p.rate());
        }
        let expected = [0.5, 0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.05, 0.01, 0.01, 0.01, 0.01];
        assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{rates:?}");
    }

    #[test]
    fn factors() {
        let steps = Schedule::MultiStep { milestones: vec![100, 200], gamma: 0.1 };
        assert_eq!((steps.factor(0), steps.factor(99)), (1.0, 1.0));
        assert!((steps.factor(100) - 0.1).abs() < 1e-8 && (steps.factor(500) - 0.01).abs() < 1e-8);
        let cosine = Schedule::Cosine { warmup: 4, total: 104, floor: 0.1 };
        assert_eq!((cosine.factor(0), cosine.factor(3), cosine.factor(4)), (0.25, 1.0, 1.0));
        assert!((cosine.factor(54) - 0.55).abs() < 1e-6);
        assert!((cosine.factor(104) - 0.1).abs() < 1e-6 && (cosine.factor(9999) - 0.1).abs() < 1e-6);
        assert_eq!(Schedule::Constant.factor(7), 1.0);
        assert!((4..104).all(|s| cosine.factor(s) >= cosine.factor(s + 1)));
    }

    #[test]
    fn senseless_settings_are_errors() {
        assert!(Schedule::Cosine { warmup: 5, total: 5, floor: 0.0 }.validate().is_err());
        assert!(Schedule::MultiStep { milestones: vec![2, 2], gamma: 0.1 }.validate().is_err());
        assert!(Schedule::MultiStep { milestones: vec![1, 2], gamma: 0.1 }.validate().is_ok());
    }
}

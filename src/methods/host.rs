//! Which settings need the host in the middle of a training step: such steps cannot be recorded once and replayed.

use super::recipe::Recipe;

impl Recipe {
    /// The first setting, if any, with which a step uploads, downloads or decides something on the host.
    pub fn needs_host(&self) -> Option<String> {
        let terms = self.generator_loss.terms();
        if let Some(t) = terms.iter().find(|t| t.needs_host()) {
            return Some(format!("generator_loss.{}", t.name()));
        }
        if let Some(t) = self.student_loss.terms().iter().find(|t| t.needs_host()) {
            return Some(format!("student_loss.{}", t.name()));
        }
        let settings = [
            (self.student.low_pass > 0.0, "student.low_pass"),
            (self.student.inundation.as_ref().is_some_and(|i| i.tau > 0.0), "student.inundation"),
        ];
        settings.into_iter().find(|s| s.0).map(|s| s.1.to_string())
    }
}

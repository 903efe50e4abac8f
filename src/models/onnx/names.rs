//! Names of nodes and tensors: those of the file as far as files of ours can hold them, no two alike.

use std::collections::{HashMap, HashSet};

/// What the program appends to names: quantizers of a node, ranges of a quantizer.
const DERIVED: [&str; 6] = ["", ".lo", ".hi", ".quant", ".quant.lo", ".quant.hi"];

/// Characters that are kept of a name.
const LONGEST: usize = 200;

/// Names that are taken, and how often each was asked for.
pub struct Names {
    taken: HashSet<String>,
    asked: HashMap<String, usize>,
}

impl Names {
    pub fn new() -> Self {
        // A key of safetensors.
        Self { taken: HashSet::from(["__metadata__".into()]), asked: HashMap::new() }
    }

    /// A free name like `wanted`, taken from now on together with what is derived from it.
    pub fn take(&mut self, wanted: &str) -> String {
        let wanted = wanted.trim_start_matches('/');
        // As torch.nn.DataParallel writes it; checkpoints lose it too.
        let wanted = wanted.strip_prefix("module.").unwrap_or(wanted);
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-/:".contains(c) { c } else { '_' };
        let base: String = wanted.chars().take(LONGEST).map(safe).collect();
        let base = if base.is_empty() { "value".into() } else { base };
        let count = self.asked.entry(base.clone()).or_insert(0);
        loop {
            *count += 1;
            let name = if *count == 1 { base.clone() } else { format!("{base}.{count}") };
            if DERIVED.iter().all(|end| !self.taken.contains(&format!("{name}{end}"))) {
                self.taken.extend(DERIVED.map(|end| format!("{name}{end}")));
                return name;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_safe_and_unique() {
        let mut names = Names::new();
        assert_eq!(names.take("/layer1/conv/Conv"), "layer1/conv/Conv");
        assert_eq!(names.take("layer1/conv/Conv"), "layer1/conv/Conv.2");
        assert_eq!(names.take("module.fc.weight"), "fc.weight");
        assert_eq!(names.take("fc"), "fc");
        assert_eq!(names.take("fc.lo"), "fc.lo.2");
        assert_eq!(names.take("a b\n"), "a_b_");
        assert_ne!(names.take("__metadata__"), "__metadata__");
        assert_ne!(names.take(""), names.take(""));
    }
}

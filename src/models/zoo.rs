//! Architectures by name.

use super::resnet::cifar_resnet;
use crate::graph::Graph;
use crate::{Error, Result};

/// A network that can be asked for with `--arch`.
pub struct Architecture {
    pub name: &'static str,
    /// Blocks per stage of the CIFAR ResNet family.
    blocks: usize,
}

/// All architectures.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "cifar-resnet20", blocks: 3 },
    Architecture { name: "cifar-resnet32", blocks: 5 },
    Architecture { name: "cifar-resnet44", blocks: 7 },
    Architecture { name: "cifar-resnet56", blocks: 9 },
];

/// Builds `name` for `classes` classes.
pub fn architecture(name: &str, classes: usize) -> Result<Graph> {
    match ARCHITECTURES.iter().find(|a| a.name == name) {
        Some(a) => Ok(cifar_resnet(a.blocks, classes)),
        None => {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
            Err(Error::config("--arch", format!("'{name}' is not known; choose one of {}", known.join(", "))))
        }
    }
}

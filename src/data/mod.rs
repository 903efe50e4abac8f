//! Images: readers of labelled sets (CIFAR, idx), of folders and of NumPy arrays, and the built-in procedural set.

pub mod cifar;
pub mod folder;
pub mod idx;
pub mod npy;
pub mod procedural;

use crate::device::Device;
use crate::tensor::Tensor;
use crate::{Error, Result};
use rayon::prelude::*;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// Unpacked gzip data beyond this is taken for an attack or a mistake (all of CIFAR-10 is 180 MB).
const GZ_LIMIT: u64 = 4 << 30;

/// Labelled u8 images in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Where it came from, for reports.
    pub name: String,
    /// `n h w c`, row-major.
    pub images: Vec<u8>,
    /// `n`, each below `classes`.
    pub labels: Vec<u32>,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// Number of classes in the set; a network may have more.
    pub classes: usize,
}

/// Per-channel affine map from `u8 / 255` to what a network was trained on: `(x / 255 - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalization {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Normalization {
    /// The constants that public CIFAR networks were trained with (those of ImageNet).
    pub const CIFAR: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// To [-1, 1], in every channel: one-channel sets.
    pub const HALF: Self = Self { mean: [0.5; 3], std: [0.5; 3] };

    /// A pixel byte of channel `c` (channels beyond the third use the third's constants).
    pub fn forward(&self, pixel: u8, c: usize) -> f32 {
        let c = c.min(2);
        (f32::from(pixel) / 255.0 - self.mean[c]) / self.std[c]
    }

    /// The nearest pixel byte of a normalized value; NaN gives 0.
    pub fn inverse(&self, value: f32, c: usize) -> u8 {
        let c = c.min(2);
        // A float-to-int `as` saturates.
        ((value * self.std[c] + self.mean[c]) * 255.0).round() as u8
    }
}

impl Default for Normalization {
    fn default() -> Self {
        Self::CIFAR
    }
}

impl Dataset {
    /// Opens `cifar10:PATH`, `cifar100:PATH`, `idx:IMAGES,LABELS`, `builtin:train` or `builtin:test`.
    ///
    /// Paths ending in `.gz` are unpacked. The built-in set is generated (see [`procedural`]).
    pub fn open(spec: &str) -> Result<Self> {
        match Spec::parse(spec)? {
            Spec::Cifar(kind, path) => cifar::load(path, kind),
            Spec::Idx(images, labels) => idx::load(images, labels),
            Spec::Builtin(split) => Ok(procedural::generate(split, split.default_size())),
        }
    }

    /// Images `range` on `device` as normalized f32 `[len h w c]`, and labels as i32 `[len]`.
    ///
    /// Errors if the range is empty or reaches beyond `n`.
    pub fn batch(&self, device: &Device, range: Range<usize>, norm: &Normalization) -> Result<(Tensor, Tensor)> {
        crate::ensure_op!(
            range.start < range.end && range.end <= self.n,
            "batch",
            "images {range:?} of a set of {}",
            self.n
        );
        let indices: Vec<usize> = range.collect();
        self.gather(device, &indices, norm)
    }

    /// Like [`Self::batch`] for images in any order, as training on shuffled data needs.
    pub fn gather(&self, device: &Device, indices: &[usize], norm: &Normalization) -> Result<(Tensor, Tensor)> {
        crate::ensure_op!(!indices.is_empty(), "batch", "no images asked for");
        // 256 possible bytes per channel: a table is quicker than the arithmetic and rounds the same everywhere.
        let table: Vec<[f32; 256]> = (0..self.c).map(|c| std::array::from_fn(|p| norm.forward(p as u8, c))).collect();
        if let Some(i) = indices.iter().find(|i| **i >= self.n) {
            return Err(Error::op("batch", format!("image {i} of a set of {}", self.n)));
        }
        let size = self.h * self.w * self.c;
        let mut x = vec![0.0; indices.len() * size];
        x.par_chunks_exact_mut(size).zip(indices).for_each(|(out, &i)| {
            let image = &self.images[i * size..(i + 1) * size];
            for (out, pixel) in out.chunks_exact_mut(self.c).zip(image.chunks_exact(self.c)) {
                for ((v, &p), t) in out.iter_mut().zip(pixel).zip(&table) {
                    *v = t[usize::from(p)];
                }
            }
        });
        let labels: Vec<i32> = indices.iter().map(|&i| self.labels[i] as i32).collect();
        let n = indices.len();
        Ok((Tensor::from_slice(device, [n, self.h, self.w, self.c], &x)?, Tensor::from_slice(device, [n], &labels)?))
    }

    /// Whether a network of `classes` classes has all the labels.
    pub fn fits(&self, classes: usize) -> bool {
        self.labels.iter().all(|&l| (l as usize) < classes)
    }

    /// The first `n` images (all if there are fewer).
    pub fn take(mut self, n: usize) -> Self {
        self.n = self.n.min(n);
        self.images.truncate(self.n * self.h * self.w * self.c);
        self.labels.truncate(self.n);
        self
    }
}

/// A parsed data set argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    Cifar(cifar::Kind, String),
    /// Images, labels.
    Idx(String, String),
    Builtin(procedural::Split),
}

impl Spec {
    /// Parses the argument of `--data`; see [`Dataset::open`].
    pub fn parse(spec: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::config(
                "--data",
                format!(
                    "{why}; use cifar10:PATH, cifar100:PATH, idx:IMAGES,LABELS, builtin:test or builtin:train, not '{spec}'"
                ),
            )
        };
        let Some((kind, rest)) = spec.split_once(':') else { return Err(bad("no kind of data set given".into())) };
        let path = |p: &str| {
            if p.is_empty() { Err(bad("a path is missing".into())) } else { Ok(p.to_string()) }
        };
        match kind {
            "cifar10" => Ok(Self::Cifar(cifar::Kind::Cifar10, path(rest)?)),
            "cifar100" => Ok(Self::Cifar(cifar::Kind::Cifar100, path(rest)?)),
            "idx" => match rest.split_once(',') {
                Some((images, labels)) => Ok(Self::Idx(path(images)?, path(labels)?)),
                None => Err(bad("idx needs two files, images and labels".into())),
            },
            "builtin" => match rest {
                "train" => Ok(Self::Builtin(procedural::Split::Train)),
                "test" => Ok(Self::Builtin(procedural::Split::Test)),
                _ => Err(bad(format!("there is no built-in split '{rest}'"))),
            },
            _ => Err(bad(format!("unknown kind of data set '{kind}'"))),
        }
    }
}

/// The bytes of a file, unpacked if its name ends in `.gz`.
pub(crate) fn read_maybe_gz(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut out = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        let mut limited = flate2::read::MultiGzDecoder::new(std::io::BufReader::new(file)).take(GZ_LIMIT + 1);
        limited.read_to_end(&mut out).map_err(fail)?;
        if out.len() as u64 > GZ_LIMIT {
            return Err(Error::file(
                path,
                format!("unpacks to more than {GZ_LIMIT} bytes; unpack it yourself if it is real"),
            ));
        }
    } else {
        std::io::BufReader::new(file).read_to_end(&mut out).map_err(fail)?;
    }
    Ok(out)
}

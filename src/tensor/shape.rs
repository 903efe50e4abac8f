//! Shapes of up to four dimensions.

/// Dimensions of a tensor, outermost first (`n h w c`, `k r s c`). Dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// From at most four dimensions.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "at most four dimensions");
        let mut d = [1; 4];
        d[..dims.len()].copy_from_slice(dims);
        Self { dims: d, rank: dims.len() }
    }
    /// Product of all dimensions.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }
    /// `[n, h, w, c]` of a rank-4 shape; an error of `op` otherwise.
    pub fn nhwc(&self, op: &'static str) -> crate::Result<[usize; 4]> {
        crate::ensure_op!(self.rank == 4, op, "expected a rank-4 tensor (n h w c), got {self}");
        Ok(self.dims)
    }
    /// `[rows, columns]` with the last dimension as columns and all others as rows.
    pub fn rows_cols(&self) -> [usize; 2] {
        let cols = self.last().copied().unwrap_or(1);
        [self.elements() / cols.max(1), cols]
    }
}

impl std::ops::Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}
impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Self {
        Self::new(&d)
    }
}
impl From<&[usize]> for Shape {
    fn from(d: &[usize]) -> Self {
        Self::new(d)
    }
}
impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, d) in self.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { "x" })?;
        }
        if self.rank == 0 { f.write_str("scalar") } else { Ok(()) }
    }
}
impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

//! What one core computes by itself: plain loops over f32 in a fixed order.
//!
//! No other thread is woken or waited for, and nothing but `exp` can differ between machines.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

const LANES: usize = 16;

/// `x` of `(length, columns)` times the transpose of `matrix`, `(rows, columns)`: `(length, rows)`.
pub(super) fn product(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(matrix, &Product)
}

/// Causal attention of `(heads, length, width)` queries to `(kv_heads, positions, width)` keys and values, the last
/// `length` positions being those of the queries: `(length, heads * width)`.
pub(super) fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    queries.apply_op3_no_bwd(keys, values, &Attention)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        matrix: &CpuStorage,
        matrix_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (length, columns) = x_layout.shape().dims2()?;
        let (rows, same) = matrix_layout.shape().dims2()?;
        if same != columns {
            bail!("{columns} columns times {same}")
        }
        let x = contiguous(x, x_layout)?;
        let matrix = contiguous(matrix, matrix_layout)?;
        let mut out = vec![0.0; length * rows];
        for (row, weights) in matrix.chunks_exact(columns).enumerate() {
            for (place, x) in x.chunks_exact(columns).enumerate() {
                out[place * rows + row] = dot(x, weights);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((length, rows))))
    }
}

struct Attention;

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        layout: &Layout,
        keys: &CpuStorage,
        key_layout: &Layout,
        values: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (heads, length, width) = layout.shape().dims3()?;
        let (kv_heads, positions, _) = key_layout.shape().dims3()?;
        let queries = contiguous(queries, layout)?;
        let (keys, values) = (Heads::of(keys, key_layout)?, Heads::of(values, value_layout)?);
        let mut out = vec![0.0; length * heads * width];
        let mut weights = Vec::with_capacity(positions);
        for (index, query) in queries.chunks_exact(width).enumerate() {
            let (head, place) = (index / length, index % length);
            let seen = positions - length + place + 1;
            let kv_head = head * kv_heads / heads;
            let keys = keys.head(kv_head, seen);
            weigh(query, keys, &mut weights);
            let mixed = &mut out[(place * heads + head) * width..][..width];
            for (weight, value) in weights.iter().zip(values.head(kv_head, seen).chunks_exact(width)) {
                mixed.iter_mut().zip(value).for_each(|(mixed, value)| *mixed += weight * value);
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((length, heads * width))))
    }
}

/// Fills `weights` with the softmax of a query's scaled products with keys.
fn weigh(query: &[f32], keys: &[f32], weights: &mut Vec<f32>) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    weights.clear();
    weights.extend(keys.chunks_exact(query.len()).map(|key| dot(query, key) * scale));
    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for weight in weights.iter_mut() {
        *weight = (*weight - max).exp();
        sum += *weight;
    }
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("not contiguous"),
    }
}

/// Heads whose positions lie one after the other, with other positions between the heads.
struct Heads<'a> {
    cells: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Heads<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let width = layout.shape().dims3()?.2;
        match *layout.stride() {
            [stride, row, 1] if row == width => {
                let cells = &storage.as_slice::<f32>()?[layout.start_offset()..];
                Ok(Self { cells, stride, width })
            }
            _ => bail!("positions are not contiguous"),
        }
    }

    fn head(&self, head: usize, positions: usize) -> &'a [f32] {
        &self.cells[head * self.stride..][..positions * self.width]
    }
}

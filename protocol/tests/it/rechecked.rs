//! Check B of vectors and pictures: what is compared, and where a tolerance ends.

use crate::pictures::png;
use swarm_protocol::distance::{Distances, Excess, Measure, Mismatch, Tolerance, pictures, vectors};
use swarm_protocol::finding::{Finding, Flaw, judge};
use swarm_protocol::statement::JobType;
use swarm_protocol::workload::image::{SUMMARY_NUMBERS, Spec, Summary};

const SPEC: Spec = Spec { width: 128, height: 64, steps: 2, guidance: 7_500 };

fn bytes(vectors: &[[f32; 4]]) -> Vec<u8> {
    vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect()
}

/// A vector of unit length that is so many 65536ths, and a half, from `[1, 0, 0, 0]`.
fn away(distance: f64) -> [f32; 4] {
    let length = (distance + 0.5) / 65_536.0;
    let cosine = 1.0 - length * length / 2.0;
    [cosine as f32, (1.0 - cosine * cosine).sqrt() as f32, 0.0, 0.0]
}

fn finding(found: &Distances, tolerance: &Tolerance) -> Finding {
    judge(Ok(found), tolerance).unwrap().0
}

#[test]
fn vectors_hold_up_to_the_tolerance_and_differ_beyond_it() {
    let tolerance = Measure::of(JobType::Embed).unwrap().tolerance();
    let (mean, worst) = (f64::from(tolerance.mean), f64::from(tolerance.worst));
    let own = |texts: usize| bytes(&vec![[1.0, 0.0, 0.0, 0.0]; texts]);
    let judged = |signed: &[[f32; 4]]| {
        let found = vectors(&bytes(signed), &own(signed.len()), 4).unwrap();
        (found.mean, found.worst, judge(Ok(&found), &tolerance).unwrap())
    };
    let (_, apart, (one, _)) = judged(&[away(worst)]);
    assert_eq!((apart, one), (tolerance.worst, Finding::Holds), "a single text may be as far off as any");
    let (_, apart, (_, why)) = judged(&[away(worst + 1.0)]);
    assert_eq!(apart, tolerance.worst + 1);
    let (found, allowed) = (apart, tolerance.worst);
    assert_eq!(why, Some(Flaw::Model(Excess::Mean { found, allowed })));
    // A hundred texts have to be nearer in the mean: the square root of their number counts.
    let least = mean + ((worst - mean) / 10.0).floor();
    assert_eq!(judged(&[away(least); 100]).2.0, Finding::Holds);
    assert_eq!(judged(&[away(least + 1.0); 100]).2.0, Finding::Differs(least as u32 + 1));
    // One text of a hundred that is of another: the mean hides it, the worst does not.
    let mut one_copied = [away(0.0); 100];
    one_copied[37] = away(worst + 1.0);
    let (_, _, (found, why)) = judged(&one_copied);
    assert!(matches!(found, Finding::Differs(mean) if mean < tolerance.mean), "{found:?}");
    let excess = Excess::Worst { position: 37, found: tolerance.worst + 1, allowed: tolerance.worst };
    assert_eq!(why, Some(Flaw::Model(excess)));
}

/// Rows of one shade, unfiltered.
fn shaded(shade: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let row = |y: usize| {
        let shade = &shade;
        std::iter::once(0).chain((0..3 * 128).map(move |at| shade(at / 3, y)))
    };
    png(128, 64, &(0..64).flat_map(row).collect::<Vec<u8>>())
}

fn steps(by: i32) -> Vec<Summary> {
    (0..2).map(|step| (0..SUMMARY_NUMBERS as i32).map(|at| 100 * step - at + by).collect()).collect()
}

#[test]
fn pictures_are_compared_step_by_step_and_tile_by_tile() {
    let plain = shaded(|x, y| (x + y) as u8);
    let compared = |steps_by: i32, picture: &[u8]| {
        let (signed, own) = (steps(steps_by), steps(0));
        pictures(&SPEC, (&signed, picture), (&own, &plain)).unwrap()
    };
    let distances = |found: &Distances| found.positions.iter().map(|p| p.distance).collect::<Vec<_>>();
    assert_eq!(distances(&compared(0, &plain)), [0; 4], "two steps and two tiles");
    assert_eq!(distances(&compared(-9, &plain)), [9, 9, 0, 0]);
    let darker = shaded(|x, y| (x + y) as u8 + u8::from(x < 64));
    assert_eq!(distances(&compared(0, &darker)), [0, 0, 256, 0], "one shade in the left tile");
    let spot = shaded(|x, y| (x + y) as u8 ^ u8::from(x == 100 && y == 7));
    assert_eq!(compared(0, &spot).worst, 0, "one pixel by one shade is nothing");
    let tolerance = Measure::of(JobType::SdInfer).unwrap().tolerance();
    for by in [tolerance.worst, tolerance.worst + 1] {
        let mut signed = [steps(0), steps(0)].concat();
        signed[0].iter_mut().for_each(|number| *number += i32::try_from(by).unwrap());
        let own: Vec<Summary> = [steps(0), steps(0)].concat();
        // A long run, so that the mean hides the one step.
        let (signed, own) = (
            [&signed[..], &vec![own[0].clone(); 96]].concat(),
            [&own[..], &vec![own[0].clone(); 96]].concat(),
        );
        let found = pictures(&SPEC, (&signed, &plain), (&own, &plain)).unwrap();
        assert!(found.mean < tolerance.mean, "{by}: {}", found.mean);
        let due = if by == tolerance.worst { Finding::Holds } else { Finding::Differs(found.mean) };
        assert_eq!(finding(&found, &tolerance), due, "{by}");
    }
}

#[test]
fn a_picture_is_the_same_whatever_its_filters_were() {
    let (wide, high) = (64usize, 64usize);
    let mut state = 7u32;
    let pixels: Vec<u8> = (0..3 * wide * high)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    // Filtered as ISO/IEC 15948 has it, each row by another of the five.
    let at = |x: isize, y: isize| -> i32 {
        if x < 0 || y < 0 { 0 } else { pixels[y as usize * 3 * wide + x as usize].into() }
    };
    let mut rows = Vec::new();
    for y in 0..high as isize {
        rows.push((y % 5) as u8);
        for x in 0..3 * wide as isize {
            let (left, up, corner) = (at(x - 3, y), at(x, y - 1), if x < 3 { 0 } else { at(x - 3, y - 1) });
            let guess = left + up - corner;
            let paeth = [left, up, corner].into_iter().min_by_key(|byte| (guess - byte).abs()).unwrap();
            let foretold = [0, left, up, (left + up) / 2, paeth][(y % 5) as usize];
            rows.push((at(x, y) - foretold) as u8);
        }
    }
    let file = png(64, 64, &rows);
    assert_eq!(swarm_protocol::workload::png::pixels(&file, 64, 64).unwrap(), pixels);
}

#[test]
fn what_was_not_recomputed_for_it_is_a_mismatch_and_a_benchmark_has_no_measure() {
    let plain = shaded(|_, _| 9);
    let told = |signed: &[Summary], own: &[Summary], picture: &[u8]| {
        pictures(&SPEC, (signed, &plain), (own, picture)).unwrap_err()
    };
    assert_eq!(told(&steps(0), &steps(0)[..1], &plain), Mismatch::Steps { signed: 2, recomputed: 1 });
    assert_eq!(told(&steps(0), &[vec![0; SUMMARY_NUMBERS], vec![0]], &plain), Mismatch::Step(1));
    assert_eq!(told(&steps(0), &steps(0), &plain[..90]), Mismatch::Picture);
    assert_eq!(Measure::of(JobType::TorchBench), None);
}

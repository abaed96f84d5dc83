//! k-means over one group of values: a start that prefers what is far from what it has (Arthur & Vassilvitskii, 2007), then
//! Lloyd's rounds.

use super::super::super::distance::tables::{CHOICES, Eight, GROUP, LANES, TABLES};
use super::super::super::rotation::next;

/// Rows that are looked at: 64 for each centroid.
const SAMPLE: usize = 64 * CHOICES;
/// Rounds, at most.
const ROUNDS: usize = 12;

type Point = [f32; GROUP];

/// Some of so many rows, ascending: one of each run of equal length.
pub fn pick(rows: usize, seed: u64) -> Vec<u32> {
    let (count, mut state) = (rows.min(SAMPLE), seed);
    let starts = (0..=count).map(|at| at * rows / count.max(1)).collect::<Vec<_>>();
    let runs = starts.windows(2).map(|run| (run[0], run[1] - run[0]));
    runs.map(|(start, len)| (start + (next(&mut state) % len.max(1) as u64) as usize) as u32).collect()
}

/// Writes at most so many centroids of the points, and half of each one's length squared; what is there already stays where there
/// are fewer that differ.
pub fn group(points: &[Point], count: usize, seed: u64, book: &mut [Eight], halves: &mut [[f32; LANES]]) {
    let mut state = seed;
    let mut centroids = start(points, count, next(&mut state));
    lay(&centroids, book, halves);
    for _ in 0..ROUNDS {
        let mut sums = vec![([0.0f32; GROUP], 0u32); CHOICES];
        for point in points {
            let (sum, members) = &mut sums[usize::from((TABLES.nearest)(point, book, halves).0)];
            sum.iter_mut().zip(point).for_each(|(sum, value)| *sum += value);
            *members += 1;
        }
        let before = centroids.clone();
        for (centroid, (sum, members)) in centroids.iter_mut().zip(sums) {
            // One that has lost all its members stays where it is.
            if members > 0 {
                *centroid = sum.map(|sum| sum / members as f32);
            }
        }
        lay(&centroids, book, halves);
        if centroids == before {
            return;
        }
    }
}

/// Points to begin with, each drawn by how far it is from those before; fewer than `count` where no others differ.
fn start(points: &[Point], count: usize, mut state: u64) -> Vec<Point> {
    let mut chosen: Vec<Point> = Vec::with_capacity(count);
    let mut away = vec![f32::INFINITY; points.len()];
    let mut next_at = next(&mut state) as usize % points.len().max(1);
    while let Some(point) = points.get(next_at).filter(|_| chosen.len() < count) {
        chosen.push(*point);
        let mut total = 0.0f64;
        for (away, other) in away.iter_mut().zip(points) {
            *away = away.min(apart(point, other));
            total += f64::from(*away);
        }
        let mut left = (next(&mut state) >> 11) as f64 / (1u64 << 53) as f64 * total;
        let drawn = away.iter().position(|away| {
            left -= f64::from(*away);
            left < 0.0
        });
        next_at = drawn.unwrap_or(usize::MAX);
    }
    chosen
}

/// The distance of two points, squared.
fn apart(a: &Point, b: &Point) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn lay(centroids: &[Point], book: &mut [Eight], halves: &mut [[f32; LANES]]) {
    for ((centroids, eight), halves) in centroids.chunks(LANES).zip(book).zip(halves) {
        for (lane, centroid) in centroids.iter().enumerate() {
            eight.iter_mut().zip(centroid).for_each(|(to, value)| to[lane] = *value);
            halves[lane] = centroid.iter().map(|value| value * value).sum::<f32>() / 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::sample::Seeded;
    use super::*;

    #[test]
    fn picks_each_row_once_and_no_more_than_it_may() {
        for rows in [0, 1, 2, 255, SAMPLE, SAMPLE + 1, 100_000] {
            let picked = pick(rows, 3);
            assert_eq!(picked.len(), rows.min(SAMPLE));
            assert!(picked.is_sorted_by(|a, b| a < b) && picked.iter().all(|row| (*row as usize) < rows));
        }
    }

    /// The mean distance of the points from their centroids, and how many centroids there are.
    fn off(points: &[Point], count: usize) -> (f32, usize) {
        let mut book = vec![[[0.0; LANES]; GROUP]; count.div_ceil(LANES)];
        let mut halves = vec![[f32::INFINITY; LANES]; count.div_ceil(LANES)];
        group(points, count, 1, &mut book, &mut halves);
        let off = points.iter().map(|point| {
            let at = usize::from((TABLES.nearest)(point, &book, &halves).0);
            apart(point, &std::array::from_fn(|value| book[at / LANES][value][at % LANES]))
        });
        let there = halves.as_flattened().iter().filter(|half| half.is_finite()).count();
        (off.sum::<f32>() / points.len().max(1) as f32, there)
    }

    #[test]
    fn centroids_are_where_the_points_are() {
        let mut random = Seeded::new(8);
        let centres: Vec<Point> = (0..40).map(|_| std::array::from_fn(|_| random.signed())).collect();
        let points: Vec<Point> =
            (0..2_000).map(|at| centres[at % 40].map(|value| value + 0.01 * random.signed())).collect();
        let (mean, there) = off(&points, 64);
        assert!(mean < 0.01 && there == 64, "{mean} {there}");
    }

    #[test]
    fn equal_points_share_a_centroid() {
        let points: Vec<Point> = (0..100).map(|at| [(at % 5) as f32; GROUP]).collect();
        assert_eq!(off(&points, 100), (0.0, 5));
        assert_eq!(off(&[[0.5; GROUP]], 1), (0.0, 1));
        assert_eq!(off(&[], 0), (0.0, 0));
    }
}

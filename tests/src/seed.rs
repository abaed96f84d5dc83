//! Randomness with a seed: the same seed makes the same choices, and a failing test says which it had.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// The environment variable that sets the seed.
pub const VARIABLE: &str = "FLOTILLA_TEST_SEED";
const DEFAULT: u64 = 20_261_121;

/// The seed of one test. Dropped in a panic, it prints the command that replays the test.
#[derive(Debug)]
pub struct Seed {
    value: u64,
    test: &'static str,
}

impl Seed {
    /// The seed from the environment, or the fixed one of every ordinary run. `test` is the test's path.
    pub fn of(test: &'static str) -> Seed {
        Seed { value: value(), test }
    }

    /// This seed, whatever the environment says.
    pub fn fixed(value: u64) -> Seed {
        Seed { value, test: "" }
    }

    /// A generator for one purpose; two purposes draw independently.
    pub fn generator(&self, purpose: u64) -> SmallRng {
        generator(self.value ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.test.is_empty() {
            let Seed { value, test } = self;
            eprintln!(
                "seed {value}; replay: {VARIABLE}={value} cargo test -p flotilla --test process {test}"
            );
        }
    }
}

/// The seed from the environment, or the fixed one of every ordinary run.
pub fn value() -> u64 {
    std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT)
}

/// A generator that depends on `seed` only.
pub fn generator(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// A vector of length 1 that depends on `seed` only; two seeds give two directions.
pub fn unit_vector(seed: u64, dims: usize) -> Vec<f32> {
    use rand::Rng as _;
    let mut draw = generator(seed);
    let mut values: Vec<f32> = (0..dims).map(|_| draw.random_range(-1.0..1.0)).collect();
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    values.iter_mut().for_each(|v| *v /= length);
    values
}

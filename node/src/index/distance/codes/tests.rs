use super::*;

#[test]
fn every_family_gives_the_same_integers() {
    let mut state = 9u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for len in [0, 1, 31, 32, 33, 64, 95, 384, 1000, 4096] {
        let mut row = || -> Vec<i8> { (0..len).map(|_| ((draw() % 255) as i32 - 127) as i8).collect() };
        let (query, rows) = (row(), [row(), row(), row(), row()]);
        let rows: [&[i8]; 4] = [0, 1, 2, 3].map(|i| &rows[i][..]);
        let extreme = vec![-127i8; len];
        for family in families() {
            let name = family.name;
            let one = rows.map(|row| (family.bytes)(&query, row));
            assert_eq!(one, bytes_four_scalar(&query, rows), "{name} {len}");
            assert_eq!((family.bytes_four)(&query, rows), one, "{name} {len}");
            assert_eq!((family.bytes)(&extreme, &extreme), 127 * 127 * len as i32, "{name} {len}");
        }
    }
    for words in [0usize, 1, 6, 12, 1024] {
        let mut word = || u64::from(draw()) << 33 ^ u64::from(draw());
        let planes: Vec<[u64; PLANES]> = (0..words).map(|_| std::array::from_fn(|_| word())).collect();
        let (add, scale, error) = (0.5f32, 0.25f32, 2.0f32);
        let mut sketches = Vec::new();
        for _ in 0..2 {
            let bits: Vec<u8> = (0..words).flat_map(|_| word().to_le_bytes()).collect();
            let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
            let factors = [add.to_bits(), scale.to_bits(), error.to_bits(), ones].map(u32::to_le_bytes);
            sketches.extend([&bits[..], factors.as_flattened()].concat());
        }
        let stride = words * 8 + 16;
        let terms = Terms { base: 1.0, weight: -2.0, step: 3.0, lowest: -20.0, all: 7.0, doubt: 0.5 };
        let value = |at: usize| -> u32 {
            (0..PLANES).map(|plane| ((planes[at / 64][plane] >> (at % 64) & 1) as u32) << plane).sum()
        };
        let naive = |row: usize| -> f32 {
            let is_set = |at: &usize| sketches[row * stride + at / 8] >> (at % 8) & 1 == 1;
            let set = (0..words * 64).filter(is_set);
            let signed: f32 = set.map(|at| 3.0 * value(at) as f32 - 20.0).sum();
            1.0 + add - 2.0 * scale * (signed - 7.0)
        };
        let strided = Strided { bytes: &sketches, stride };
        for family in families() {
            let mut glances = Glances::NONE;
            (family.planes)(&planes, &strided, &terms, &[1, 0, 2], &mut glances);
            let wanted = [naive(1), naive(0), f32::INFINITY];
            assert_eq!(glances.about[..3], wanted, "{} {words}", family.name);
            assert_eq!(glances.off[..3], [1.0, 1.0, 0.0], "{} {words}", family.name);
        }
    }
    for pairs in [0usize, 1, 3, 48, 128] {
        let mut pair = || -> Pair { std::array::from_fn(|_| draw() as u8) };
        let counts: Vec<Pair> = (0..pairs).map(|_| pair()).collect();
        let sketches: Vec<Pair> = (0..pairs).map(|_| pair()).collect();
        let sums = sketches_scalar(&counts, &sketches);
        let naive = |slot: usize| -> usize {
            let value =
                |pair: &Pair, half: usize| usize::from(pair[half + slot % 16]) >> (slot / 16 * 4) & 15;
            let both = counts.iter().zip(&sketches);
            both.flat_map(|(c, s)| [0, 16].map(|half| usize::from(c[half + value(s, half)]))).sum()
        };
        for (slot, sum) in sums.iter().enumerate() {
            assert_eq!(usize::from(*sum), naive(slot) % 65_536, "{pairs} {slot}");
        }
        #[cfg(target_arch = "x86_64")]
        for family in families() {
            let found = match family.name {
                // SAFETY (both): the processor has what the family needs.
                "avx512" => unsafe { avx512::sketches(&counts, &sketches) },
                "avx2" => unsafe { avx2::sketches(&counts, &sketches) },
                _ => continue,
            };
            assert_eq!(found, sums, "{} {pairs}", family.name);
        }
        let (add, scale, error) = ([0.25; SLOTS], [-1.5; SLOTS], [2.0; SLOTS]);
        let mut links = [7; SLOTS];
        links[3] = u32::MAX;
        let block = Block { sketches: &sketches, add: &add, scale: &scale, error: &error, links: &links };
        let mean = sums.iter().map(|sum| f32::from(*sum)).sum::<f32>() / SLOTS as f32;
        let sieve = Sieve { step: 0.5, lowest: -3.0, doubt: -0.1, bound: -1.5 * (0.5 * mean - 3.0) + 0.04 };
        let passed = sift_scalar(&counts, &block, &sieve);
        let wanted = (0..SLOTS).filter(|slot| *slot != 3 && f32::from(sums[*slot]) > mean);
        assert_eq!(passed, wanted.fold(0, |bits, slot| bits | 1 << slot), "{pairs}");
        for family in families() {
            assert_eq!((family.sketches)(&counts, &block, &sieve), passed, "{} {pairs}", family.name);
        }
    }
}

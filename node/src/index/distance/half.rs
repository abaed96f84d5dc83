//! 16-bit floats (IEEE 754 binary16), to and from 32-bit ones.

/// The nearest 16-bit float, ties to the even one; beyond its range an infinity.
pub fn to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    let half = match magnitude {
        0x7f80_0001.. => 0x7e00,
        // 65,520 lies half way between the greatest number and the one that would be next.
        0x477f_f000.. => 0x7c00,
        // Below 2^-14 numbers are multiples of 2^-24.
        0..0x3880_0000 => (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even() as u16,
        _ => ((magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13) as u16,
    };
    sign | half
}

/// The same number in 32 bits, where it is finite.
#[inline]
pub fn from_half(half: u16) -> f32 {
    // The exponent's bias is 15 in 16 bits and 127 in 32: a factor of 2^112, exact for denormal numbers too.
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back_and_what_lies_between_two_goes_to_the_nearest() {
        for half in 0..0x7bff_u16 {
            let (this, next) = (from_half(half), from_half(half + 1));
            assert!(this < next && to_half(this) == half && to_half(-this) == half | 0x8000, "{half:x}");
            let middle = (f64::from(this) + f64::from(next)) / 2.0;
            let even = if half % 2 == 0 { half } else { half + 1 };
            assert_eq!(to_half(middle as f32), even, "{half:x}");
            assert_eq!(to_half((middle as f32).next_down()), half, "{half:x}");
            assert_eq!(to_half((middle as f32).next_up()), half + 1, "{half:x}");
        }
    }

    #[test]
    fn known_numbers() {
        for (half, value) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65_504.0), (1, 5.960_464_5e-8), (0, 0.0)]
        {
            assert_eq!((from_half(half), to_half(value)), (value, half));
        }
        assert_eq!((to_half(65_519.9), to_half(65_520.0), to_half(f32::NAN)), (0x7bff, 0x7c00, 0x7e00));
        assert_eq!((to_half(1.0 / 33_554_432.0), to_half(f32::from_bits(1))), (0, 0));
    }
}

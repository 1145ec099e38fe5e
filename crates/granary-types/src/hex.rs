//! Hexadecimal text: written in lower case, read in either.

use hex_simd::{AsciiCase, Out};

/// Two lower-case digits a byte.
#[must_use]
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    hex_simd::encode_to_string(bytes, AsciiCase::Lower)
}

/// The inverse; `None` for anything but pairs of hexadecimal digits.
#[must_use]
pub fn decode(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    hex_simd::decode_to_vec(text).ok()
}

/// The inverse for `N` bytes; `None` for anything but `2 N` hexadecimal digits.
#[must_use]
pub fn decode_array<const N: usize>(text: impl AsRef<[u8]>) -> Option<[u8; N]> {
    let text = text.as_ref();
    let mut bytes = [0; N];
    // A longer text would not fit, and be a panic there.
    (text.len() == 2 * N).then_some(())?;
    hex_simd::decode(text, Out::from_slice(&mut bytes)).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        assert_eq!(encode([0, 10, 255]), "000aff");
        assert_eq!(decode("000aFf"), Some(vec![0, 10, 255]));
        assert_eq!(decode_array("000aFf"), Some([0, 10, 255]));
        assert_eq!(decode_array::<0>(""), Some([]));
    }

    #[test]
    fn nothing_else() {
        for text in ["0", "0g", "0 ", "é", "+1"] {
            assert_eq!(decode(text), None, "{text}");
        }
        for text in ["", "00", "000", "00000000", "0x0000", "00000g"] {
            assert_eq!(decode_array::<3>(text), None, "{text}");
        }
    }
}

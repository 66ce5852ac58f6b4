//! The parameters of a request, percent-encoded for a query or a form body.
//!
//! They are written one after the other into one text. That takes less than half of the instructions that
//! `serde_urlencoded` takes, and every operation does it: a light beat has seven parameters.

use std::fmt::Write as _;

use crate::model::service::ServiceName;

/// A beat needs about 256 bytes. Growing from an empty text would reallocate six times.
const USUAL_LENGTH: usize = 256;

/// The bytes that stay as they are in `application/x-www-form-urlencoded`.
const IS_COPIED: [bool; 256] = {
    let mut is_copied = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        is_copied[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*');
        byte += 1;
    }
    is_copied
};

/// Parameters in the order in which they are added.
#[derive(Debug)]
pub(crate) struct Parameters(String);

impl Parameters {
    pub(crate) fn new() -> Self {
        Parameters(String::with_capacity(USUAL_LENGTH))
    }

    /// Adds a parameter. `name` must be one that needs no encoding.
    pub(crate) fn add(mut self, name: &'static str, value: impl Parameter) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        value.append_to(&mut self.0);
        self
    }

    /// Adds a parameter, if there is a value.
    pub(crate) fn add_if(self, name: &'static str, value: Option<impl Parameter>) -> Self {
        match value {
            Some(value) => self.add(name, value),
            None => self,
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// The value of a parameter.
pub(crate) trait Parameter {
    fn append_to(self, encoded: &mut String);
}

impl Parameter for &str {
    fn append_to(self, encoded: &mut String) {
        // Nearly every text can be copied, and seeing that takes less time than encoding it.
        if self.bytes().all(|byte| IS_COPIED[usize::from(byte)]) {
            encoded.push_str(self);
        } else {
            encoded.extend(form_urlencoded::byte_serialize(self.as_bytes()));
        }
    }
}

/// A service as `GROUP@@service`.
impl Parameter for &ServiceName {
    fn append_to(self, encoded: &mut String) {
        self.group.as_str().append_to(encoded);
        encoded.push_str("%40%40");
        self.name.as_str().append_to(encoded);
    }
}

impl Parameter for bool {
    fn append_to(self, encoded: &mut String) {
        encoded.push_str(if self { "true" } else { "false" });
    }
}

macro_rules! numbers {
    ($($number:ty => $format:literal),*) => {$(
        impl Parameter for $number {
            fn append_to(self, encoded: &mut String) {
                // Writing into a text cannot fail.
                let _ = write!(encoded, $format, self);
            }
        }
    )*};
}

// A weight always has a point or an exponent, as in Java.
numbers!(u16 => "{}", u32 => "{}", f64 => "{:?}");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_encoded_as_in_a_form() {
        let texts = ["orders-1._*", "a b", "G@@a$b/{{1}}&x=заказ #%2F", "订单", "", "~!'()"];
        for text in texts {
            let parameters = Parameters::new().add("first", "1").add("text", text).into_text();
            let mut expected = form_urlencoded::Serializer::new(String::new());
            assert_eq!(parameters, expected.append_pair("first", "1").append_pair("text", text).finish());
        }
    }

    #[test]
    fn a_service_is_its_grouped_name() {
        let service = ServiceName { group: "A B".into(), name: "заказ@1".into() };
        let whole = service.to_string();
        let parameters = |value: Parameters| value.into_text();
        let expected = parameters(Parameters::new().add("serviceName", whole.as_str()));
        assert_eq!(parameters(Parameters::new().add("serviceName", &service)), expected);
    }

    #[test]
    fn numbers_and_flags_are_plain_texts_and_missing_values_are_left_out() {
        let parameters = Parameters::new()
            .add("port", 8080_u16)
            .add("weight", 1.0)
            .add("least", 1e-7)
            .add("ephemeral", true)
            .add_if("udpPort", None::<u16>)
            .add_if("healthyOnly", Some(false));
        assert_eq!(parameters.into_text(), "port=8080&weight=1.0&least=1e-7&ephemeral=true&healthyOnly=false");
    }
}

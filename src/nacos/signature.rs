//! Signatures of requests for Alibaba Cloud's managed Nacos (MSE). Pure functions.
//!
//! A signed request carries the parameters `ak` (the access key's id), `data` and `signature`; with V4 also
//! `signatureVersion=v4`. Temporary credentials add the header `Spas-SecurityToken`.

use base64::{engine::general_purpose::STANDARD, Engine as _};
use hmac::{digest::KeyInit, EagerHash, Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;

use crate::service::ServiceName;

pub(crate) const ACCESS_KEY: &str = "ak";
pub(crate) const DATA: &str = "data";
pub(crate) const SIGNATURE: &str = "signature";
pub(crate) const SIGNATURE_VERSION: &str = "signatureVersion";
pub(crate) const V4: &str = "v4";
pub(crate) const SECURITY_TOKEN_HEADER: &str = "Spas-SecurityToken";

/// What is signed: the time, and the service if the request names one.
pub(crate) fn data(epoch_millis: i64, service: Option<&ServiceName>) -> String {
    match service {
        Some(service) => format!("{epoch_millis}@@{service}"),
        None => epoch_millis.to_string(),
    }
}

/// The `signature` of `data`. With V4, `secret` is the [`v4_key`].
pub(crate) fn sign(secret: &str, data: &str) -> String {
    STANDARD.encode(hmac::<Sha1>(secret.as_bytes(), data))
}

/// The key that V4 signs with instead of the secret, for one region and day.
pub(crate) fn v4_key(secret: &str, region: &str, epoch_millis: i64) -> String {
    let (year, month, day) = utc_date(epoch_millis.div_euclid(86_400_000));
    let date = format!("{year:04}{month:02}{day:02}");
    let first = format!("aliyun_v4{secret}").into_bytes();
    let chain = [&date, region, "mse-nacos", "aliyun_v4_request"];
    STANDARD.encode(chain.into_iter().fold(first, |key, part| hmac::<Sha256>(&key, part)))
}

fn hmac<D: EagerHash>(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length: a longer one is hashed.
    let Ok(mut mac) = Hmac::<D>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
pub(crate) fn utc_date(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of year 0, so that a leap day ends its year, and in eras of 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 { months_from_march + 3 } else { months_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "my-secret";
    const TIME: i64 = 1_700_000_000_000;

    fn orders() -> ServiceName {
        ServiceName::from_wire("orders", "DEFAULT_GROUP")
    }

    #[test]
    fn a_request_that_names_a_service_is_signed_with_the_service() {
        let data = data(TIME, Some(&orders()));
        assert_eq!(data, "1700000000000@@DEFAULT_GROUP@@orders");
        assert_eq!(sign(SECRET, &data), "Xcvskr4ANAl6LnyTFC1LXUTU3mI=");
    }

    #[test]
    fn a_request_without_a_service_is_signed_with_the_time() {
        assert_eq!(sign(SECRET, &data(TIME, None)), "JgszVCq0fm0ew3uUG9xxV/KqhA4=");
    }

    #[test]
    fn v4_signs_with_a_key_of_the_day_and_the_region() {
        let key = v4_key(SECRET, "cn-hangzhou", TIME);
        assert_eq!(sign(&key, &data(TIME, Some(&orders()))), "cyu5JYCo5XWPxqpF2wyifztfFUg=");
        assert_eq!(key, v4_key(SECRET, "cn-hangzhou", TIME + 3_600_000), "the same day");
        assert_ne!(key, v4_key(SECRET, "cn-hangzhou", TIME + 86_400_000));
        assert_ne!(key, v4_key(SECRET, "cn-beijing", TIME));
    }

    #[test]
    fn dates_are_utc() {
        assert_eq!(utc_date(TIME / 86_400_000), (2023, 11, 14));
        assert_eq!(utc_date(0), (1970, 1, 1));
        assert_eq!(utc_date(-1), (1969, 12, 31));
    }
}

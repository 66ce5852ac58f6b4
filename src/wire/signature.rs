//! Signatures of requests for Alibaba Cloud's managed Nacos (MSE). Pure functions, no I/O.
//!
//! A signed request carries the parameters `ak` (the access key's id), `data`, `signature` and `app`; with V4 also
//! `signatureVersion=v4`. Temporary credentials add the header `Spas-SecurityToken`.
//!
//! | parameter | value |
//! |---|---|
//! | `ak` | the id of the access key |
//! | `app` | `unknown` |
//! | `data` | `<ms since 1970>@@<GROUP@@service>`, or the time alone if the request names no service |
//! | `signature` | base64 of HMAC-SHA1 of `data`, with the secret |
//! | `signatureVersion` | `v4`, only with V4 |
//!
//! With V4 another key takes the place of the secret: base64 of a chain of HMAC-SHA256 over the UTC date
//! (`yyyyMMdd`), the region, `mse-nacos` and `aliyun_v4_request`, which begins with the key `aliyun_v4` + secret.
//! The signature itself stays HMAC-SHA1.
//!
//! The rules come from the source of Nacos' Java client (`SignUtil`, `client-basic/…/auth/ram`) and are tested with
//! vectors. They were not tried at Alibaba Cloud.

use base64::{engine::general_purpose::STANDARD, Engine as _};
use hmac::{digest::KeyInit, EagerHash, Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;

use super::exchange::Request;
use crate::{
    config::AccessKey,
    model::service::{ServiceName, DEFAULT_GROUP},
};

pub(crate) const ACCESS_KEY: &str = "ak";
pub(crate) const DATA: &str = "data";
pub(crate) const SIGNATURE: &str = "signature";
pub(crate) const SIGNATURE_VERSION: &str = "signatureVersion";
pub(crate) const V4: &str = "v4";
pub(crate) const SECURITY_TOKEN_HEADER: &str = "Spas-SecurityToken";

/// The parameter for an unknown application, as Alibaba's own clients send it.
const APP: (&str, &str) = ("app", "unknown");

impl AccessKey {
    /// The query of `request` together with the parameters of the signature.
    ///
    /// A request is signed anew for each attempt, because the time is part of it. Its parameters themselves are not
    /// signed.
    pub(crate) fn signed_query(&self, request: &Request, epoch_millis: i64) -> String {
        let data = data(epoch_millis, named_service(request).as_ref());
        let mut query = form_urlencoded::Serializer::for_suffix(request.query.clone(), 0);
        query.append_pair(ACCESS_KEY, &self.id).append_pair(APP.0, APP.1).append_pair(DATA, &data);
        query.append_pair(SIGNATURE, &self.sign(&data, epoch_millis));
        if self.region.is_some() {
            query.append_pair(SIGNATURE_VERSION, V4);
        }
        query.finish()
    }

    /// The signature of `data`. With V4 the signing key depends on the time.
    pub(crate) fn sign(&self, data: &str, epoch_millis: i64) -> String {
        match &self.region {
            Some(region) => sign(&v4_key(&self.secret, region, epoch_millis), data),
            None => sign(&self.secret, data),
        }
    }
}

/// The service that the parameters in the query or in the form name.
fn named_service(request: &Request) -> Option<ServiceName> {
    let form = request.form.as_deref().unwrap_or_default();
    let parameter = |name: &str| {
        let mut pairs = [&request.query, form].into_iter().flat_map(|text| form_urlencoded::parse(text.as_bytes()));
        pairs.find(|(key, _)| key == name).map(|(_, value)| value)
    };
    let name = parameter("serviceName")?;
    Some(ServiceName::from_wire(&name, &parameter("groupName").unwrap_or(DEFAULT_GROUP.into())))
}

/// The signed text: the time, and the service if the request names one.
pub(crate) fn data(epoch_millis: i64, service: Option<&ServiceName>) -> String {
    match service {
        Some(service) => format!("{epoch_millis}@@{service}"),
        None => epoch_millis.to_string(),
    }
}

/// Signs `data`. With V4, `secret` is the result of [`v4_key`].
fn sign(secret: &str, data: &str) -> String {
    STANDARD.encode(hmac::<Sha1>(secret.as_bytes(), data))
}

/// The signing key of V4, which replaces the secret for one region and one day.
fn v4_key(secret: &str, region: &str, epoch_millis: i64) -> String {
    let (year, month, day) = utc_date(epoch_millis.div_euclid(86_400_000));
    let date = format!("{year:04}{month:02}{day:02}");
    let first = format!("aliyun_v4{secret}").into_bytes();
    let chain = [&date, region, "mse-nacos", "aliyun_v4_request"];
    STANDARD.encode(chain.into_iter().fold(first, |key, part| hmac::<Sha256>(&key, part)))
}

/// The authentication code of `text` under `key`.
fn hmac<D: EagerHash>(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC accepts keys of any length.
    let Ok(mut mac) = Hmac::<D>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Year, month and day in the Gregorian calendar. `days` counts from 1970-01-01.
pub(crate) fn utc_date(days: i64) -> (i64, i64, i64) {
    // Count from 1 March of year 0, so that a leap day is the last day of its year, in eras of 400 years.
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
    use awc::http::Method;

    use super::{super::parameters::Parameters, *};

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

    fn key(region: Option<&str>) -> AccessKey {
        AccessKey { id: "my id".into(), secret: SECRET.into(), security_token: None, region: region.map(str::to_owned) }
    }

    fn parameters(query: &str) -> Vec<(String, String)> {
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    fn texts(pairs: &[(&'static str, &str)]) -> Parameters {
        pairs.iter().fold(Parameters::new(), |parameters, (name, value)| parameters.add(name, *value))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_signed_query_has_the_parameters_of_the_request_and_those_of_the_signature() {
        let list = [("serviceName", "DEFAULT_GROUP@@orders"), ("clusters", "a&b")];
        let request = Request::by_query(Method::GET, "/", texts(&list));
        let mut expected = pairs(&list);
        expected.extend(pairs(&[
            ("ak", "my id"),
            ("app", "unknown"),
            ("data", "1700000000000@@DEFAULT_GROUP@@orders"),
            ("signature", "Xcvskr4ANAl6LnyTFC1LXUTU3mI="),
        ]));
        assert_eq!(parameters(&key(None).signed_query(&request, TIME)), expected);
        let v4 = parameters(&key(Some("cn-hangzhou")).signed_query(&request, TIME));
        assert_eq!(v4[5..], pairs(&[("signature", "cyu5JYCo5XWPxqpF2wyifztfFUg="), ("signatureVersion", "v4")]));
    }

    #[test]
    fn the_signed_service_is_the_one_in_the_query_or_in_the_form() {
        let data = |request: &Request| {
            let query = parameters(&key(None).signed_query(request, TIME));
            query.into_iter().find(|(name, _)| name == "data").unwrap().1
        };
        let form = Request::by_form("/", texts(&[("groupName", "PAY"), ("serviceName", "заказ/1")]));
        assert_eq!(data(&form), "1700000000000@@PAY@@заказ/1");
        let ungrouped = Request::by_query(Method::GET, "/", texts(&[("serviceName", "orders")]));
        assert_eq!(data(&ungrouped), "1700000000000@@DEFAULT_GROUP@@orders");
        let none = Request::by_query(Method::GET, "/", texts(&[("groupName", "PAY")]));
        assert_eq!(data(&none), "1700000000000");
        let bare =
            Request { method: Method::GET, path: "/", query: String::new(), form: None, form_may_be_query: false };
        assert_eq!(parameters(&key(None).signed_query(&bare, TIME)).len(), 4);
    }

    #[test]
    fn dates_are_utc() {
        assert_eq!(utc_date(TIME / 86_400_000), (2023, 11, 14));
        assert_eq!(utc_date(0), (1970, 1, 1));
        assert_eq!(utc_date(-1), (1969, 12, 31));
    }
}

//! The shared store that an operator names by a URL.
//!
//! Parses the URL and sets the client up without connecting. A store whose cargo feature is off is refused by name.
//! The invariant: a password never appears in an error, a log line or `Debug` output.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use opendal::Operator;

use super::SharedError;

/// Shown in place of a password.
pub const HIDDEN_PASSWORD: &str = "***";
const SHAPES: &str =
    "name a store as redis://HOST:PORT, s3://BUCKET/PREFIX?endpoint=URL, or /a/mounted/folder";

/// A password that `Debug` hides.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { HIDDEN_PASSWORD })
    }
}

/// The shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Store {
    /// A folder that all machines have mounted.
    Folder(PathBuf),
    /// Redis or Valkey.
    #[cfg(feature = "redis")]
    Redis {
        /// For example `redis://cache.local:6379`.
        endpoint: String,
        /// Empty for none.
        username: String,
        /// Empty for none.
        password: Password,
        /// The number of the database.
        database: i64,
    },
    /// S3 or a store that speaks its protocol. The credentials come from the environment, as AWS's tools have it.
    #[cfg(feature = "s3")]
    S3 {
        /// The bucket.
        bucket: String,
        /// The folder in the bucket.
        prefix: String,
        /// The region.
        region: String,
        /// For example `https://s3.amazonaws.com`; empty for AWS itself.
        endpoint: String,
    },
}

impl FromStr for Store {
    type Err = SharedError;

    /// Reads `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]` (`rediss://` with TLS),
    /// `s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME]`, or an absolute path, with or without `file://`.
    fn from_str(url: &str) -> Result<Self, SharedError> {
        let path = url.strip_prefix("file://").unwrap_or(url);
        if path.starts_with('/') {
            return Ok(Store::Folder(path.into()));
        }
        match url.split_once("://") {
            Some((scheme @ ("redis" | "rediss"), rest)) => redis(scheme, rest),
            Some(("s3", rest)) => s3(rest),
            Some((scheme, _)) => Err(refused(format!("`{scheme}://` is not a known store; {SHAPES}"))),
            None => Err(refused(format!("`{url}` is neither a URL nor an absolute path; {SHAPES}"))),
        }
    }
}

/// The URL with [`HIDDEN_PASSWORD`] in place of a password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let Some((login, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    match login.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{HIDDEN_PASSWORD}@{host}"),
        None => url.to_owned(),
    }
}

fn refused(reason: String) -> SharedError {
    SharedError { reason }
}

#[cfg(not(feature = "redis"))]
fn redis(_scheme: &str, _rest: &str) -> Result<Store, SharedError> {
    Err(refused("this build has no Redis support; build it with `--features redis`".into()))
}

#[cfg(feature = "redis")]
fn redis(scheme: &str, rest: &str) -> Result<Store, SharedError> {
    let (login, address) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (username, password) = login.split_once(':').unwrap_or((login, ""));
    if password == HIDDEN_PASSWORD {
        return Err(refused(format!("the password is hidden; write it in place of {HIDDEN_PASSWORD}")));
    }
    let (host, database) = address.split_once('/').unwrap_or((address, ""));
    if host.is_empty() {
        return Err(refused(format!("the URL names no host; {SHAPES}")));
    }
    let database = if database.is_empty() { Ok(0) } else { database.parse() };
    let database =
        database.map_err(|_| refused("what follows the host must be a database's number".into()))?;
    Ok(Store::Redis {
        endpoint: format!("{scheme}://{host}"),
        username: decoded(username)?,
        password: Password(decoded(password)?),
        database,
    })
}

#[cfg(not(feature = "s3"))]
fn s3(_rest: &str) -> Result<Store, SharedError> {
    Err(refused("this build has no S3 support; build it with `--features s3`".into()))
}

#[cfg(feature = "s3")]
fn s3(rest: &str) -> Result<Store, SharedError> {
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(refused(format!("the URL names no bucket; {SHAPES}")));
    }
    let (mut region, mut endpoint) = (String::new(), String::new());
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("region", value)) => region = decoded(value)?,
            Some(("endpoint", value)) => endpoint = decoded(value)?,
            _ => return Err(refused(format!("unknown option `{option}`; known are endpoint= and region="))),
        }
    }
    if region.is_empty() {
        region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".into());
    }
    Ok(Store::S3 { bucket: bucket.into(), prefix: decoded(prefix)?, region, endpoint })
}

/// Decodes percent-encoding.
#[cfg(any(feature = "redis", feature = "s3"))]
fn decoded(text: &str) -> Result<String, SharedError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            (b'%', None) => return Err(refused("a `%` in the URL must be written as %25".into())),
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| refused("the URL is not UTF-8".into()))
}

/// The client of a store, not connected yet.
pub(super) fn operator(store: &Store) -> opendal::Result<Operator> {
    match store {
        Store::Folder(folder) => {
            let folder = folder.to_string_lossy();
            let partial = format!("{folder}/.writing");
            Operator::new(opendal::services::Fs::default().root(&folder).atomic_write_dir(&partial))
        }
        #[cfg(feature = "redis")]
        Store::Redis { endpoint, username, password, database } => {
            let redis =
                opendal::services::Redis::default().endpoint(endpoint).root("/foretoken").db(*database);
            let redis = if username.is_empty() { redis } else { redis.username(username) };
            Operator::new(if password.0.is_empty() { redis } else { redis.password(&password.0) })
        }
        #[cfg(feature = "s3")]
        Store::S3 { bucket, prefix, region, endpoint } => {
            // Without it every request of the client fails: it has no HTTP client of its own.
            opendal::install_default();
            let s3 = opendal::services::S3::default().bucket(bucket).region(region);
            let s3 = if endpoint.is_empty() { s3 } else { s3.endpoint(endpoint) };
            Operator::new(s3.root(&format!("/{prefix}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        url.parse::<Store>().unwrap_err().to_string()
    }

    #[test]
    fn an_absolute_path_is_a_folder() {
        let folder = Store::Folder("/mnt/cache".into());
        assert_eq!("/mnt/cache".parse::<Store>().unwrap(), folder);
        assert_eq!("file:///mnt/cache".parse::<Store>().unwrap(), folder);
    }

    #[test]
    fn what_names_no_store_says_what_would() {
        for url in ["", "cache", "./cache", "ftp://host/folder"] {
            assert!(refusal(url).contains("redis://HOST:PORT"), "{}", refusal(url));
        }
    }

    #[test]
    fn a_password_is_hidden_and_nothing_else_is() {
        assert_eq!(without_password("redis://me:secret@host:1/2"), "redis://me:***@host:1/2");
        for open in ["redis://me@host", "redis://host:1", "/mnt/cache", "s3://bucket/a?endpoint=http://h:1"] {
            assert_eq!(without_password(open), open);
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_redis_url_is_taken_apart() {
        let store: Store = "rediss://me:a%40b@cache.local:7000/3".parse().unwrap();
        let expected = Store::Redis {
            endpoint: "rediss://cache.local:7000".into(),
            username: "me".into(),
            password: Password("a@b".into()),
            database: 3,
        };
        assert_eq!(store, expected);
        assert!(!format!("{store:?}").contains("a@b"), "{store:?}");
        for bad in ["redis://", "redis://host/x", "redis://me:***@host", "redis://me:%4@host"] {
            assert!(bad.parse::<Store>().is_err(), "{bad}");
        }
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn redis_is_refused_by_a_build_without_it() {
        assert!(refusal("redis://host").contains("--features redis"));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn an_s3_url_is_taken_apart() {
        let store: Store = "s3://bucket/a/b?endpoint=http://127.0.0.1:9000&region=eu".parse().unwrap();
        let expected = Store::S3 {
            bucket: "bucket".into(),
            prefix: "a/b".into(),
            region: "eu".into(),
            endpoint: "http://127.0.0.1:9000".into(),
        };
        assert_eq!(store, expected);
        assert!(refusal("s3://bucket?regoin=eu").contains("endpoint= and region="));
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn s3_is_refused_by_a_build_without_it() {
        assert!(refusal("s3://bucket").contains("--features s3"));
    }
}

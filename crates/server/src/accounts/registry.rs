//! Accounts: their names, keys and prepaid amounts.
//!
//! An account is an API key, with a name if the operator set one; keys with the same name share an account, so that
//! a key can be rotated. `user_id` selects a tenant within an account and does not affect billing. The invariant: an
//! account's name is stable across restarts and reveals no key.

use std::fmt;
use std::str::FromStr;

use foretoken_cache::store::NanoDollars;
use serde::{Deserialize, Serialize};

use super::money::{Usd, UsdError};
use super::prices::{Prices, Rates};
use crate::config::{ApiKey, ApiKeyError, ServerConfig};

/// The account of everyone on a server without keys.
const DEFAULT: &str = "default";
/// The account of the admin keys.
const ADMIN: &str = "admin";
/// Prefix of the generated name of an unnamed key.
const UNNAMED: &str = "key-";
/// Matches every account without an entry of its own.
const EVERY: &str = "*";
const NAME_BYTES_MAX: usize = 64;

/// An API key with a name, written `NAME=KEY` or `NAME=blake3:HASH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamedKey {
    /// The account's name.
    pub name: String,
    /// One of its keys.
    pub key: ApiKey,
}

/// A prepaid amount, written `NAME=AMOUNT`; `*` matches every account without an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prepaid {
    /// The account's name, or `*`.
    pub name: String,
    /// Total that the account may spend.
    pub amount: Usd,
}

/// Why a text is not a [`NamedKey`] or [`Prepaid`]. Never quotes the text, which may contain a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No `=`.
    #[error("an account is written NAME=KEY, a prepaid amount NAME=AMOUNT; the '=' is missing")]
    NoName,
    /// Invalid characters in a name.
    #[error("the name of an account is 1 to 64 letters, digits, '.', '_' or '-'")]
    Name,
    /// A reserved name.
    #[error("'default', 'admin' and names that start with 'key-' are reserved; choose another")]
    Reserved,
    /// The key after the name.
    #[error(transparent)]
    Key(#[from] ApiKeyError),
    /// The amount after the name.
    #[error(transparent)]
    Amount(#[from] UsdError),
}

fn checked_name(name: &str) -> Result<&str, AccountError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(good) {
        true => Ok(name),
        false => Err(AccountError::Name),
    }
}

impl FromStr for NamedKey {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (name, key) = text.split_once('=').ok_or(AccountError::NoName)?;
        let name = checked_name(name)?;
        if name == DEFAULT || name == ADMIN || name.starts_with(UNNAMED) {
            return Err(AccountError::Reserved);
        }
        Ok(NamedKey { name: name.to_owned(), key: ApiKey::parse(key)? })
    }
}

impl FromStr for Prepaid {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (name, amount) = text.split_once('=').ok_or(AccountError::NoName)?;
        let name = if name == EVERY { name } else { checked_name(name)? };
        Ok(Prepaid { name: name.to_owned(), amount: amount.parse()? })
    }
}

impl fmt::Display for NamedKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={:?}", self.name, self.key)
    }
}

impl fmt::Display for Prepaid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.name, self.amount)
    }
}

impl TryFrom<String> for NamedKey {
    type Error = AccountError;

    fn try_from(text: String) -> Result<Self, AccountError> {
        text.parse()
    }
}

impl TryFrom<String> for Prepaid {
    type Error = AccountError;

    fn try_from(text: String) -> Result<Self, AccountError> {
        text.parse()
    }
}

impl From<NamedKey> for String {
    fn from(named: NamedKey) -> String {
        named.to_string()
    }
}

impl From<Prepaid> for String {
    fn from(prepaid: Prepaid) -> String {
        prepaid.to_string()
    }
}

/// Index of an account in its [`AccountRegistry`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccountId(pub(super) usize);

/// An account as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    /// Total that it may spend; `None` is no limit.
    pub(crate) prepaid: Option<NanoDollars>,
}

/// All accounts and the price list. Immutable while the server runs.
#[derive(Debug)]
pub(crate) struct AccountRegistry {
    accounts: Vec<Account>,
    keys: Vec<(ApiKey, AccountId)>,
    prices: Prices,
}

impl AccountRegistry {
    /// Builds the registry from the configuration.
    ///
    /// # Errors
    /// Inconsistent prices, a key with two names, or a prepaid amount for an unknown account.
    pub(crate) fn new(config: &ServerConfig) -> Result<AccountRegistry, String> {
        config.prices.check()?;
        let first = Account { name: DEFAULT.to_owned(), prepaid: None };
        let mut registry =
            AccountRegistry { accounts: vec![first], keys: Vec::new(), prices: config.prices.clone() };
        for named in &config.named_keys {
            if !config.api_keys.contains(&named.key) {
                return Err(format!("--account: the key of '{}' is not among the API keys", named.name));
            }
            let names = config.named_keys.iter().filter(|other| other.key == named.key);
            if names.clone().any(|other| other.name != named.name) {
                return Err(format!("--account: the key of '{}' has two names; give it one", named.name));
            }
        }
        for key in &config.api_keys {
            let named = config.named_keys.iter().find(|named| named.key == *key);
            let name =
                named.map_or_else(|| format!("{UNNAMED}{}", key.digits(16)), |named| named.name.clone());
            let id = registry.account(name);
            registry.keys.push((*key, id));
        }
        if !config.api_keys.is_empty() {
            for key in &config.admin_keys {
                let id = registry.account(ADMIN.to_owned());
                registry.keys.push((*key, id));
            }
        }
        registry.pay_in(&config.prepaid)?;
        Ok(registry)
    }

    /// The account of that name, created if absent.
    fn account(&mut self, name: String) -> AccountId {
        let at = self.accounts.iter().position(|account| account.name == name);
        AccountId(at.unwrap_or_else(|| {
            self.accounts.push(Account { name, prepaid: None });
            self.accounts.len() - 1
        }))
    }

    fn pay_in(&mut self, prepaid: &[Prepaid]) -> Result<(), String> {
        for Prepaid { name, amount } in prepaid.iter().filter(|prepaid| prepaid.name != EVERY) {
            let account = self.accounts.iter_mut().find(|account| account.name == *name);
            let account = account.ok_or_else(|| {
                format!("--prepaid: there is no account '{name}'; name it with its key, as in {name}=KEY")
            })?;
            if account.prepaid.replace(amount.nano()).is_some() {
                return Err(format!("--prepaid: '{name}' is given twice; give one amount"));
            }
        }
        let every: Vec<_> = prepaid.iter().filter(|prepaid| prepaid.name == EVERY).collect();
        if every.len() > 1 {
            return Err("--prepaid: '*' is given twice; give one amount".to_owned());
        }
        for account in self.accounts.iter_mut().filter(|account| account.name != ADMIN) {
            account.prepaid = account.prepaid.or(every.first().map(|every| every.amount.nano()));
        }
        Ok(())
    }

    /// The account of a key. Compares with every key, without early exit.
    pub(crate) fn account_of(&self, key: &[u8]) -> AccountId {
        let presented = blake3::hash(key);
        let known = self
            .keys
            .iter()
            .rev()
            .fold(None, |known, (key, id)| if key.matches(&presented) { Some(*id) } else { known });
        known.unwrap_or_default()
    }

    /// Account and hash of every key; tenant names are derived from the hash.
    pub(crate) fn tenant_keys(&self) -> Vec<(String, String)> {
        if self.keys.is_empty() {
            return vec![(DEFAULT.to_owned(), String::new())];
        }
        self.keys.iter().map(|(key, id)| (self.get(*id).name.clone(), key.digits(64))).collect()
    }

    pub(crate) fn get(&self, id: AccountId) -> &Account {
        &self.accounts[id.0]
    }

    /// The prices at a moment, in seconds since 1970.
    pub(crate) fn rates_at(&self, unix_s: u64) -> Rates {
        self.prices.at(unix_s)
    }

    pub(super) fn accounts(&self) -> &[Account] {
        &self.accounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[&str], named: &[&str], prepaid: &[&str]) -> ServerConfig {
        let named_keys: Vec<NamedKey> = named.iter().map(|text| text.parse().unwrap()).collect();
        let named = named_keys.iter().map(|named| named.key);
        ServerConfig {
            api_keys: keys.iter().map(|key| ApiKey::new(key)).chain(named).collect(),
            admin_keys: vec![ApiKey::new("root")],
            prepaid: prepaid.iter().map(|text| text.parse().unwrap()).collect(),
            named_keys,
            ..ServerConfig::default()
        }
    }

    fn name<'a>(registry: &'a AccountRegistry, key: &str) -> &'a str {
        &registry.get(registry.account_of(key.as_bytes())).name
    }

    fn limit(registry: &AccountRegistry, key: &str) -> Option<NanoDollars> {
        registry.get(registry.account_of(key.as_bytes())).prepaid
    }

    #[test]
    fn keys_with_one_name_share_an_account_and_unnamed_keys_are_named_by_their_hash() {
        let registry =
            AccountRegistry::new(&config(&["plain"], &["alice=old", "alice=new", "bob=k=="], &[])).unwrap();
        assert_eq!(registry.account_of(b"old"), registry.account_of(b"new"));
        assert_eq!((name(&registry, "old"), name(&registry, "k==")), ("alice", "bob"));
        let digits = blake3::hash(b"plain").to_hex();
        assert_eq!(name(&registry, "plain"), format!("key-{}", &digits[..16]));
        assert_eq!(name(&registry, "root"), "admin");
    }

    #[test]
    fn a_server_without_keys_has_one_account() {
        let registry = AccountRegistry::new(&config(&[], &[], &["default=1.5"])).unwrap();
        assert_eq!((name(&registry, "any"), name(&registry, "root")), ("default", "default"));
        assert_eq!(limit(&registry, "any"), Some(1_500_000_000));
    }

    #[test]
    fn an_amount_applies_to_a_name_or_to_all_accounts_without_one() {
        let registry = AccountRegistry::new(&config(&["plain"], &["alice=a"], &["*=2", "alice=0"])).unwrap();
        assert_eq!(limit(&registry, "a"), Some(0));
        assert_eq!(limit(&registry, "plain"), Some(2_000_000_000));
        assert_eq!(limit(&registry, "root"), None);
        let digits = blake3::hash(b"plain").to_hex();
        let unnamed = format!("key-{}=3", &digits[..16]);
        let registry = AccountRegistry::new(&config(&["plain"], &["alice=a"], &[&unnamed])).unwrap();
        assert_eq!((limit(&registry, "plain"), limit(&registry, "a")), (Some(3_000_000_000), None));
    }

    #[test]
    fn inconsistent_settings_are_rejected() {
        let refusal = |named: &[&str], prepaid: &[&str]| {
            AccountRegistry::new(&config(&[], named, prepaid)).unwrap_err()
        };
        assert!(refusal(&["a=k", "b=k"], &[]).contains("two names"));
        let closed = ServerConfig { api_keys: vec![ApiKey::new("k")], ..config(&[], &["a=other"], &[]) };
        assert!(AccountRegistry::new(&closed).unwrap_err().contains("not among the API keys"));
        assert!(refusal(&["a=k"], &["b=1"]).contains("no account 'b'"));
        assert!(refusal(&["a=k"], &["a=1", "a=2"]).contains("twice"));
        assert!(refusal(&["a=k"], &["*=1", "*=2"]).contains("twice"));
    }

    #[test]
    fn invalid_texts_are_rejected_without_being_quoted() {
        for text in ["sk-secret", "=sk-secret", "a b=sk-secret", "key-1=sk-secret", "admin=sk-secret", "a="] {
            let error = text.parse::<NamedKey>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{text}");
        }
        for text in ["5", "a=", "a=-5", "a=5 dollars", "a/b=5"] {
            assert!(text.parse::<Prepaid>().is_err(), "{text}");
        }
        let named: NamedKey = "a=sk-secret".parse().unwrap();
        assert!(!format!("{named} {named:?}").contains("secret"));
        assert_eq!(named.to_string().parse(), Ok(named));
    }
}

//! Root key in a PKCS#11 token (an HSM, a smart card, SoftHSM2): an AES-256 key that never leaves it.
//!
//! A key wrapped here is 61 bytes: version (1) = 4 ‖ nonce (12 random) ‖ ciphertext (32) ‖ tag (16), AES-GCM in the
//! token; what the key is for is additional data. The session is opened when it is first needed and again after an
//! error: a token that was away comes back without a restart.

use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use granary_crypto::{CryptoError, KeyProvider, Secret32};
use granary_types::WrappedKey;
use parking_lot::Mutex;
use zeroize::{Zeroize as _, Zeroizing};

const WRAP_VERSION: u8 = 4;
const WHAT: &str = "key wrapped by a PKCS#11 token";
const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;

/// Where the key is, and what opens the token.
pub(super) struct Pkcs11Settings {
    /// The library.
    pub(super) module: PathBuf,
    /// Label of the token.
    pub(super) token: String,
    /// Label of the key.
    pub(super) key: String,
    /// File with the PIN.
    pub(super) pin_file: PathBuf,
    /// Make the key where the token has none: only where nothing was sealed yet.
    pub(super) make: bool,
}

/// A key in a token.
pub(super) struct Pkcs11KeyProvider {
    settings: Pkcs11Settings,
    library: Pkcs11,
    session: Mutex<Option<(Session, ObjectHandle)>>,
}

fn provider(what: &str, error: &Error) -> CryptoError {
    CryptoError::Provider(format!("PKCS#11: {what}: {error}"))
}

impl Pkcs11KeyProvider {
    /// Loads the library and finds the key (or makes it, where that is allowed).
    ///
    /// # Errors
    /// [`CryptoError::Provider`].
    pub(super) fn open(settings: Pkcs11Settings) -> Result<Self, CryptoError> {
        let library = Pkcs11::new(&settings.module)
            .map_err(|error| provider(&format!("library {}", settings.module.display()), &error))?;
        library
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(|error| provider("the library could not be initialised", &error))?;
        let opened = Self { settings, library, session: Mutex::new(None) };
        let made = opened.connect(opened.settings.make)?;
        *opened.session.lock() = Some(made);
        Ok(opened)
    }

    fn slot(&self) -> Result<Slot, CryptoError> {
        let slots = self.library.get_slots_with_token().map_err(|error| provider("no tokens", &error))?;
        let labelled = |slot: &Slot| {
            self.library.get_token_info(*slot).is_ok_and(|token| token.label().trim() == self.settings.token)
        };
        slots
            .into_iter()
            .find(labelled)
            .ok_or_else(|| CryptoError::Provider(format!("PKCS#11: no token is labelled `{}`", self.settings.token)))
    }

    fn connect(&self, make: bool) -> Result<(Session, ObjectHandle), CryptoError> {
        let slot = self.slot()?;
        let session = if make { self.library.open_rw_session(slot) } else { self.library.open_ro_session(slot) };
        let session = session.map_err(|error| provider("no session", &error))?;
        let pin_file = &self.settings.pin_file;
        let pin = std::fs::read_to_string(pin_file)
            .map(Zeroizing::new)
            .map_err(|error| CryptoError::Provider(format!("PIN file {}: {error}", pin_file.display())))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.trim().into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(provider("the PIN was not accepted", &error)),
        }
        let label = Attribute::Label(self.settings.key.clone().into_bytes());
        let found = session
            .find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), label.clone()])
            .map_err(|error| provider("the key could not be looked for", &error))?;
        let key = match found[..] {
            [key] => key,
            [] if make => session
                .generate_key(
                    &Mechanism::AesKeyGen,
                    &[
                        Attribute::Token(true),
                        Attribute::Private(true),
                        Attribute::Sensitive(true),
                        Attribute::Extractable(false),
                        Attribute::Encrypt(true),
                        Attribute::Decrypt(true),
                        Attribute::ValueLen(32.into()),
                        label,
                    ],
                )
                .map_err(|error| provider("the key could not be made", &error))?,
            [] => {
                return Err(CryptoError::Provider(format!("PKCS#11: the token has no key `{}`", self.settings.key)));
            }
            _ => {
                let why = format!("PKCS#11: the token has {} keys `{}`", found.len(), self.settings.key);
                return Err(CryptoError::Provider(why));
            }
        };
        Ok((session, key))
    }

    /// Does something in a session; a session that fails is given up, and the next call opens another.
    fn with<T>(
        &self,
        act: impl Fn(&Session, ObjectHandle) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, CryptoError> {
        let mut held = self.session.lock();
        for attempt in 0..2 {
            let (session, key) = match held.take() {
                Some(there) => there,
                None => self.connect(false)?,
            };
            match act(&session, key) {
                // The session or the token went away: once more with another.
                Err(Error::Pkcs11(
                    RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::DeviceRemoved
                    | RvError::TokenNotPresent
                    | RvError::UserNotLoggedIn
                    | RvError::KeyHandleInvalid,
                    _,
                )) if attempt == 0 => {}
                done => {
                    *held = Some((session, key));
                    return Ok(done);
                }
            }
        }
        Err(CryptoError::Provider("PKCS#11: the token does not keep a session".into()))
    }
}

fn aad(context: &[u8]) -> Vec<u8> {
    [b"granary pkcs11 wrap ", context].concat()
}

impl KeyProvider for Pkcs11KeyProvider {
    fn wrap(&self, context: &[u8], key: &Secret32) -> granary_crypto::Result<WrappedKey> {
        let mut nonce = [0u8; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| CryptoError::Provider("the system gives no randomness".into()))?;
        let aad = aad(context);
        let sealed = self
            .with(|session, root| {
                let mut nonce = nonce;
                let params = GcmParams::new(&mut nonce, &aad, TAG_BITS.into())?;
                session.encrypt(&Mechanism::AesGcm(params), root, key.expose())
            })?
            .map_err(|error| provider("encrypting", &error))?;
        Ok(WrappedKey([&[WRAP_VERSION], &nonce[..], &sealed].concat()))
    }

    fn unwrap(&self, context: &[u8], wrapped: &WrappedKey) -> granary_crypto::Result<Secret32> {
        let format = |why: &str| CryptoError::Format { what: WHAT, why: why.into() };
        let rest = match wrapped.0.split_first() {
            Some((&WRAP_VERSION, rest)) => rest,
            _ => return Err(format("wrapped by another key provider")),
        };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(|| format("cut short"))?;
        if sealed.len() != 32 + 16 {
            return Err(format("not as long as a key"));
        }
        let aad = aad(context);
        let opened = self.with(|session, root| {
            let mut nonce = *nonce;
            let params = GcmParams::new(&mut nonce, &aad, TAG_BITS.into())?;
            session.decrypt(&Mechanism::AesGcm(params), root, sealed)
        })?;
        let plain = match opened {
            Ok(plain) => Zeroizing::new(plain),
            // Tokens differ in how they say that a tag does not match.
            Err(Error::Pkcs11(
                RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError,
                _,
            )) => return Err(CryptoError::Open { what: WHAT }),
            Err(error) => return Err(provider("decrypting", &error)),
        };
        let mut bytes = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| CryptoError::Open { what: WHAT })?;
        let secret = Secret32::from_bytes(bytes);
        bytes.zeroize();
        Ok(secret)
    }

    fn describe(&self) -> String {
        format!("root key {} in PKCS#11 token {}", self.settings.key, self.settings.token)
    }

    fn blocks(&self) -> bool {
        true
    }
}

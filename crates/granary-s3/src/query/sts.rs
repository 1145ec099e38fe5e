//! STS: who am I, and temporary credentials.

use std::sync::Arc;

use granary_access::identity::{PrincipalKind, Session};
use granary_access::manage::provider_arn;
use granary_access::oidc;
use granary_access::policy::{Env, GivenContext, Key, Policy, PolicyKind, Verdict};
use granary_access::records::Role;
use granary_access::session::{Issued, Of};
use granary_access::state::role_arn;
use granary_access::{By, Decision, IamError, Identity};
use granary_types::Timestamp;
use granary_types::date;

use super::xml::Xml;
use super::{Asked, Failure, Result};

pub(crate) const VERSION: &str = "2011-06-15";
pub(crate) const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Seconds of a session: AWS's least, default, and most for users and for the root keys.
const LEAST_S: u64 = 900;
const DEFAULT_S: u64 = 3_600;
const SESSION_TOKEN_DEFAULT_S: u64 = 43_200;
const USER_MOST_S: u64 = 129_600;
const ROOT_MOST_S: u64 = 3_600;

/// Actions that nobody signs: the token is the proof.
pub(crate) fn is_unsigned(action: &str) -> bool {
    action == "AssumeRoleWithWebIdentity"
}

pub(crate) async fn act(asked: &Asked<'_>, action: &str) -> Result<String> {
    match action {
        "GetCallerIdentity" => {
            let mut xml = Xml::new();
            // Needs no permission, as in AWS: it tells what the caller knows.
            asked.decided(Decision { allowed: true, by: By::Unneeded });
            xml.text("Arn", &asked.who.arn).text("UserId", &asked.who.id).text("Account", &asked.who.account);
            Ok(xml.into_string())
        }
        "GetSessionToken" => session_token(asked),
        "AssumeRole" => assume_role(asked),
        "AssumeRoleWithWebIdentity" => web_identity(asked).await,
        other => Err(Failure::new(400, "InvalidAction", format!("{other} of STS is not implemented"))),
    }
}

fn duration(asked: &Asked<'_>, default_s: u64, most_s: u64) -> Result<u64> {
    let Some(text) = asked.form.maybe("DurationSeconds") else { return Ok(default_s.min(most_s)) };
    let wanted = text.parse::<u64>().ok().filter(|wanted| (LEAST_S..=most_s).contains(wanted));
    wanted.ok_or_else(|| {
        Failure::new(400, "ValidationError", format!("DurationSeconds must be a number between {LEAST_S} and {most_s}"))
    })
}

fn session_policies(asked: &Asked<'_>) -> (Vec<String>, Vec<String>) {
    let policies = asked.form.maybe("Policy").map(str::to_owned).into_iter().collect();
    let arns =
        (1..=10).map_while(|n| asked.form.maybe(&format!("PolicyArns.member.{n}.arn")).map(str::to_owned)).collect();
    (policies, arns)
}

/// The new credentials, in the answer; which key it is (and nothing else of it) also in the trail, where its requests are found by it.
fn credentials(asked: &Asked<'_>, xml: &mut Xml, issued: &Issued) {
    asked.note("accessKeyId", &issued.access_key);
    xml.within("Credentials", |xml| {
        xml.text("AccessKeyId", &issued.access_key)
            .text("SecretAccessKey", &issued.secret)
            .text("SessionToken", &issued.token)
            .text("Expiration", &date::iso(issued.expires));
    });
}

fn session_token(asked: &Asked<'_>) -> Result<String> {
    let who = &asked.who;
    if who.session.is_some() {
        return Err(Failure::new(403, "AccessDenied", "Cannot call GetSessionToken with session credentials"));
    }
    let (of, most_s) = match who.kind {
        PrincipalKind::Root => (Of::Root, ROOT_MOST_S),
        PrincipalKind::User if who.limits.is_empty() => {
            (Of::User(who.account.clone(), who.name.clone(), who.id.clone()), USER_MOST_S)
        }
        _ => return Err(Failure::new(403, "AccessDenied", "Service accounts cannot call GetSessionToken")),
    };
    let duration_s = duration(asked, SESSION_TOKEN_DEFAULT_S, most_s)?;
    let issued = asked.query.iam.issue_session(of, duration_s, Vec::new(), Vec::new(), None)?;
    asked.decided(Decision { allowed: true, by: By::Unneeded });
    let mut xml = Xml::new();
    credentials(asked, &mut xml, &issued);
    Ok(xml.into_string())
}

/// `arn:aws:iam::ACCOUNT:role/PATH/NAME`.
fn role_of(asked: &Asked<'_>, arn: &str) -> Option<Arc<Role>> {
    let (account, path) = arn.strip_prefix("arn:aws:iam::")?.split_once(":role/")?;
    let state = asked.query.iam.state();
    let role = state.role(account, path.rsplit('/').next()?).ok()?;
    (role_arn(role) == arn).then(|| Arc::clone(role))
}

fn session_name(asked: &Asked<'_>) -> Result<String> {
    let name = asked.form.text("RoleSessionName")?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'=' | b',' | b'.' | b'@' | b'-');
    if (2..=64).contains(&name.len()) && name.bytes().all(fine) {
        Ok(name.to_owned())
    } else {
        Err(Failure::new(
            400,
            "ValidationError",
            "RoleSessionName must have 2 to 64 letters, digits, or any of _+=,.@-",
        ))
    }
}

fn assumed(asked: &Asked<'_>, role: &Role, session: &str, issued: &Issued, xml: &mut Xml) {
    credentials(asked, xml, issued);
    xml.within("AssumedRoleUser", |xml| {
        xml.text("AssumedRoleId", &format!("{}:{session}", role.id))
            .text("Arn", &format!("arn:aws:sts::{}:assumed-role/{}/{session}", role.account, role.name));
    });
}

fn by_trust_of(role: &Role, statement: Arc<str>) -> By {
    By::Trust { role: role.name.as_str().into(), statement }
}

fn not_authorized(who: &str, action: &str, arn: &str) -> Failure {
    Failure::new(403, "AccessDenied", format!("User: {who} is not authorized to perform: {action} on resource: {arn}"))
}

fn assume_role(asked: &Asked<'_>) -> Result<String> {
    let arn = asked.form.text("RoleArn")?;
    let session = session_name(asked)?;
    let refused = || not_authorized(&asked.who.arn, "sts:AssumeRole", arn);
    // A role that is not there is refused like one that may not be assumed: neither is told.
    let role = role_of(asked, arn).ok_or_else(refused)?;
    let trust = Policy::parse(role.trust.as_bytes(), PolicyKind::Trust).map_err(|_| refused())?;
    let mut given = vec![(Key::RoleSessionName, vec![session.clone()])];
    if let Some(id) = asked.form.maybe("ExternalId") {
        given.push((Key::ExternalId, vec![id.to_owned()]));
    }
    let view = asked.view();
    let context = GivenContext { given, rest: &view };
    let env = Env { identity: &asked.who, context: &context };
    let by_trust = trust.judge("sts:AssumeRole", arn, &env);
    let own: Decision = asked.decide("sts:AssumeRole", arn);
    let is_same_account = asked.who.account == role.account;
    let denied_by_own = matches!(&own.by, By::Identity { .. } | By::Limit { .. }) && !own.allowed;
    let is_enough = own.allowed || (is_same_account && trust.names(&asked.who));
    let decision = match by_trust {
        _ if denied_by_own => own,
        Verdict::Denied(statement) => Decision { allowed: false, by: by_trust_of(&role, statement) },
        Verdict::Allowed(statement) if is_enough => Decision { allowed: true, by: by_trust_of(&role, statement) },
        Verdict::Allowed(_) => own,
        Verdict::Silent => Decision { allowed: false, by: By::Nothing },
    };
    let allowed = decision.allowed;
    asked.decided(decision);
    if !allowed {
        return Err(refused());
    }
    let duration_s = duration(asked, DEFAULT_S, role.session_s_max)?;
    let (policies, arns) = session_policies(asked);
    let of = Of::Role(role.account.clone(), role.name.clone(), role.id.clone(), session.clone());
    let issued = asked.query.iam.issue_session(of, duration_s, policies, arns, None)?;
    let mut xml = Xml::new();
    assumed(asked, &role, &session, &issued, &mut xml);
    Ok(xml.into_string())
}

async fn web_identity(asked: &Asked<'_>) -> Result<String> {
    let arn = asked.form.text("RoleArn")?;
    let token = asked.form.text("WebIdentityToken")?;
    let session = session_name(asked)?;
    let refused = || Failure::new(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
    let role = role_of(asked, arn).ok_or_else(refused)?;
    let claimed = oidc::claimed_issuer(token)?;
    let name = oidc::issuer_name(&claimed).ok_or_else(refused)?.to_owned();
    if !asked.query.iam.limits().takes_issuer(&name) {
        return Err(Failure::new(
            400,
            "InvalidIdentityToken",
            format!("Tokens of {claimed} are not taken: identity.oidc_issuers does not name it"),
        ));
    }
    let state = asked.query.iam.state();
    // The role's account trusts the provider, not whoever presents a token.
    let provider = state.provider(&role.account, &name).ok_or_else(|| {
        Failure::new(
            400,
            "InvalidIdentityToken",
            format!("No OpenIDConnect provider found in your account for {claimed}"),
        )
    })?;
    let fetch = asked.query.iam.fetch().ok_or_else(|| {
        Failure::from(IamError::IdpCommunication(
            "this server is set not to fetch keys of identity providers".to_owned(),
        ))
    })?;
    let now = asked.query.iam.now();
    let verified = asked.query.oidc.verify(&*fetch, &provider.url, &provider.client_ids, token, now).await?;

    let trust = Policy::parse(role.trust.as_bytes(), PolicyKind::Trust).map_err(|_| refused())?;
    let identity = Identity {
        session: Some(Session {
            issued: now,
            expires: Timestamp::default(),
            issuer: provider_arn(&role.account, &name),
            provider: Some(name.clone()),
        }),
        ..Identity::anonymous()
    };
    let mut given = vec![(Key::RoleSessionName, vec![session.clone()])];
    for claim in ["aud", "sub", "amr", "azp", "email"] {
        let values: Vec<String> = match (claim, &verified.claims[claim]) {
            ("aud", _) => vec![verified.audience.clone()],
            (_, serde_json::Value::String(one)) => vec![one.clone()],
            (_, serde_json::Value::Array(many)) => many.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        if let (Some(key), false) = (Key::parse(&format!("{name}:{claim}")), values.is_empty()) {
            given.push((key, values));
        }
    }
    let view = asked.view();
    let context = GivenContext { given, rest: &view };
    let env = Env { identity: &identity, context: &context };
    asked.note("provider", &provider_arn(&role.account, &name));
    asked.note("subjectFromWebIdentityToken", &verified.subject);
    match trust.judge("sts:AssumeRoleWithWebIdentity", arn, &env) {
        Verdict::Allowed(statement) => {
            asked.decided(Decision { allowed: true, by: by_trust_of(&role, statement) });
        }
        Verdict::Denied(statement) => {
            asked.decided(Decision { allowed: false, by: by_trust_of(&role, statement) });
            return Err(refused());
        }
        Verdict::Silent => {
            asked.decided(Decision { allowed: false, by: By::Nothing });
            return Err(refused());
        }
    }
    let duration_s = duration(asked, DEFAULT_S, role.session_s_max)?;
    let (policies, arns) = session_policies(asked);
    let of = Of::Role(role.account.clone(), role.name.clone(), role.id.clone(), session.clone());
    let issued = asked.query.iam.issue_session(of, duration_s, policies, arns, Some(name))?;
    let mut xml = Xml::new();
    assumed(asked, &role, &session, &issued, &mut xml);
    xml.text("SubjectFromWebIdentityToken", &verified.subject)
        .text("Audience", &verified.audience)
        .text("Provider", &provider_arn(&role.account, &provider.name));
    Ok(xml.into_string())
}

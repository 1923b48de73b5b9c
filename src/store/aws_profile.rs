//! Profiles of AWS: what `~/.aws/config` and `~/.aws/credentials` say of the profile that `AWS_PROFILE` names, or of
//! `default`. `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` name other files.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use ini::Ini;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{CredentialProvider, Error};
use reqsign_aws_core::{
    Credential, ProcessCredentialProvider, ProfileCredentialProvider, SSOCredentialProvider,
};
use reqsign_command_execute_tokio::TokioCommandExecute;
use reqsign_core::{Context, OsEnv, ProvideCredential, SigningCredential};
use reqsign_file_read_tokio::TokioFileRead;
use reqsign_http_send_reqwest::ReqwestHttpSend;

use super::runtime::RUNTIME;

/// What says that a container has an identity of its own.
const OF_CONTAINERS: [AmazonS3ConfigKey; 3] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
];
/// What is wrong with a profile that has nothing that is read.
const NOTHING: &str = "it has neither keys nor credential_process nor an account of single sign-on; for a profile \
    with role_arn or sso_session, write credential_process = aws configure export-credentials --profile NAME \
    --format process into another one";

/// The profile that is in use.
#[derive(Debug)]
struct Profile {
    /// The name of the profile.
    name: String,
    /// What reads files and the environment, runs programs and sends requests.
    context: Context,
    /// The credential that was found last.
    last: Mutex<Option<Credential>>,
}

/// Gives a bucket the region, the endpoint and the credentials of the profile, each if the environment does not say it.
///
/// # Errors
/// Returns an error if `AWS_PROFILE` names a profile without credentials, or if they cannot be had.
pub(super) fn complete(mut builder: AmazonS3Builder) -> object_store::Result<AmazonS3Builder> {
    let named = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    let is_named = named.is_some();
    let profile = Profile {
        name: named.unwrap_or_else(|| "default".to_owned()),
        context: Context::new()
            .with_env(OsEnv)
            .with_file_read(TokioFileRead)
            .with_command_execute(TokioCommandExecute)
            .with_http_send(ReqwestHttpSend::default()),
        last: Mutex::default(),
    };
    for (key, name) in
        [(AmazonS3ConfigKey::Region, "region"), (AmazonS3ConfigKey::Endpoint, "endpoint_url")]
    {
        if builder.get_config_value(&key).is_none()
            && let Some(value) = profile.setting(name)
        {
            builder = builder.with_config(key, value);
        }
    }
    let is_anonymous = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature);
    let has = |key: &AmazonS3ConfigKey| builder.get_config_value(key).is_some();
    // A container that has an identity of its own has it before the profile that nobody has named.
    let is_container = OF_CONTAINERS.iter().any(has);
    if has(&AmazonS3ConfigKey::AccessKeyId)
        || is_anonymous.is_some_and(|value| value == "true")
        || (is_container && !is_named)
    {
        return Ok(builder);
    }
    match RUNTIME.block_on(profile.find()) {
        Ok(Some(_)) => Ok(builder.with_credentials(Arc::new(profile))),
        Ok(None) if is_named => Err(profile.failed(NOTHING.into())),
        Err(error) if is_named => Err(error),
        Err(error) => {
            tracing::warn!("{error}");
            Ok(builder)
        }
        Ok(None) => Ok(builder),
    }
}

impl Profile {
    /// A setting of the profile in the configuration file.
    fn setting(&self, name: &str) -> Option<String> {
        let path = self.context.env_var("AWS_CONFIG_FILE");
        let path = path.unwrap_or_else(|| "~/.aws/config".to_owned());
        let file = Ini::load_from_file_noescape(self.context.expand_home_dir(&path)?).ok()?;
        let section = match self.name.as_str() {
            "default" => "default".to_owned(),
            name => format!("profile {name}"),
        };
        file.section(Some(section))?.get(name).map(str::to_owned)
    }

    /// The credential of the profile: its keys, what its program prints, or what single sign-on gives. `None` if it
    /// has nothing of these.
    async fn find(&self) -> object_store::Result<Option<Credential>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = last().clone().filter(SigningCredential::is_valid);
        if valid.is_some() {
            return Ok(valid);
        }
        let (keys, process, sso) = (
            ProfileCredentialProvider::new().with_profile(&self.name),
            ProcessCredentialProvider::new().with_profile(&self.name),
            SSOCredentialProvider::new().with_profile(&self.name),
        );
        let ways: [BoxFuture<reqsign_core::Result<Option<Credential>>>; 3] = [
            Box::pin(keys.provide_credential(&self.context)),
            Box::pin(process.provide_credential(&self.context)),
            Box::pin(sso.provide_credential(&self.context)),
        ];
        for way in ways {
            let found = way.await.map_err(|error| self.failed(error.into()))?;
            if found.is_some() {
                last().clone_from(&found);
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn failed(&self, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        let source = format!("the profile {} gives no credentials: {source}", self.name);
        Error::Generic { store: "S3", source: source.into() }
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Profile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.find().await?;
        let found = found.ok_or_else(|| self.failed("they are no longer there".into()))?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id,
            secret_key: found.secret_access_key,
            token: found.session_token,
        }))
    }
}

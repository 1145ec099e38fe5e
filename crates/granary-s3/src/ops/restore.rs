//! RestoreObject. No storage class here is an archive, so there is nothing to restore: what S3 says of an object that is
//! none in one is said of every object.

use s3s::dto::{RestoreObjectInput, RestoreObjectOutput};
use s3s::{S3Error, S3ErrorCode, S3Request};

use crate::context::Cx;
use crate::front::{FrontDoor, Outcome};
use crate::ops::access::malformed_xml;
use crate::ops::lock::version_info;

pub(crate) async fn restore_object(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<RestoreObjectInput>,
) -> Outcome<RestoreObjectOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    if input.restore_request.is_none() {
        return Err(malformed_xml("The request needs a RestoreRequest").into());
    }
    version_info(front, bucket, input.key, input.version_id.as_deref()).await?;
    let message = "Restore is not allowed for the object's current storage class";
    Err(S3Error::with_message(S3ErrorCode::InvalidObjectState, message).into())
}

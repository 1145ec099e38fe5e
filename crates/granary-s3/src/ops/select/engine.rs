//! Queries over stored objects, evaluated: the store as `granary_select` reads it, its events as s3s frames them.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _, stream};
use granary_meta::command::EtagMatch;
use granary_select::{Counts, Event, Events, Object, ReadError, Reading, Select};
use granary_store::ObjectStore;
use granary_store::api::{GetRequest, Portion, ReadCondition};
use granary_store::meter::{self, Meter};
use granary_types::{BucketName, RangeSpec};
use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderName, Uri};
use s3s::dto::{
    ContinuationEvent, EndEvent, Progress, ProgressEvent, RecordsEvent, SelectObjectContentEvent,
    SelectObjectContentEventStream, SelectObjectContentOutput, Stats, StatsEvent,
};
use s3s::{S3ErrorCode, S3Response, S3Result};
use tokio::sync::OwnedSemaphorePermit;

use super::{bad, refusal};
use crate::access::view::parameter;
use crate::context::Cx;
use crate::convert;
use crate::error::busy;
use crate::front::{FrontDoor, Outcome};
use crate::ops::sse;

/// The object that a query is about.
pub(super) struct Asked<'a> {
    pub(super) bucket: BucketName,
    pub(super) key: String,
    pub(super) headers: &'a HeaderMap,
    pub(super) uri: &'a Uri,
}

pub(super) async fn answer(
    front: &FrontDoor,
    cx: &Cx,
    asked: Asked<'_>,
    select: Select,
) -> Outcome<SelectObjectContentOutput> {
    if asked.headers.contains_key(RANGE) {
        return Err(bad(
            S3ErrorCode::UnsupportedRangeHeader,
            "Range header is not supported for this operation: use ScanRange.",
        )
        .into());
    }
    let Ok(permit) = Arc::clone(&front.selects).try_acquire_owned() else {
        return Err(busy("Too many queries are being evaluated: try again later.").into());
    };
    let mut request = get_request(front, asked)?;
    let info = front.store.head(request.clone()).await?;
    // From here on it is this state and no other, whatever is written meanwhile.
    request.version = request.version.or(info.version);
    request.condition =
        ReadCondition { if_match: Some(EtagMatch::OneOf(vec![info.object.etag.clone()])), ..ReadCondition::default() };
    let meter: Arc<dyn Meter> = Arc::clone(&cx.trace) as _;
    let object = Stored { store: Arc::clone(&front.store), request, size_bytes: info.object.size_bytes, meter };
    let events = granary_select::run(select, Arc::new(object), front.select_limits)
        .await
        .map_err(|error| refusal(cx, &error))?;
    let cx = Cx { trace: Arc::clone(&cx.trace), caller: Arc::clone(&cx.caller), auth: cx.auth, is_form: cx.is_form };
    let payload = SelectObjectContentEventStream::new(Answer { events: Mutex::new(events), cx, _permit: permit });
    Ok(S3Response::new(SelectObjectContentOutput { payload: Some(payload) }))
}

fn get_request(front: &FrontDoor, asked: Asked<'_>) -> Result<GetRequest, crate::error::Fail> {
    let Asked { bucket, key, headers, uri } = asked;
    let date = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).and_then(convert::parse_http_date);
    let version = uri.query().and_then(|query| parameter(query, "versionId"));
    Ok(GetRequest {
        bucket,
        key: convert::object_key(key)?,
        version: convert::version_id(version.as_deref())?,
        portion: Portion::Whole,
        condition: ReadCondition {
            if_match: convert::etag_match(headers, &IF_MATCH)?,
            if_none_match: convert::etag_match(headers, &IF_NONE_MATCH)?,
            if_modified_since: date(IF_MODIFIED_SINCE),
            if_unmodified_since: date(IF_UNMODIFIED_SINCE),
        },
        unlock: sse::of_read(front, headers)?,
    })
}

/// One state of a stored object.
struct Stored {
    store: Arc<dyn ObjectStore>,
    request: GetRequest,
    size_bytes: u64,
    meter: Arc<dyn Meter>,
}

impl Object for Stored {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, range: Range<u64>) -> Reading {
        let (store, meter) = (Arc::clone(&self.store), Arc::clone(&self.meter));
        let portion = Portion::Range(RangeSpec::From { first: range.start, last: range.end.checked_sub(1) });
        let request = GetRequest { portion, ..self.request.clone() };
        let failed = |error: granary_store::StoreError| ReadError(error.to_string());
        stream::once(async move { meter::scoped(meter, store.get(request)).await })
            .flat_map(move |got| match got {
                Ok((_, body)) => body.map(move |frame| frame.map_err(failed)).boxed(),
                Err(error) => stream::once(std::future::ready(Err(failed(error)))).boxed(),
            })
            .boxed()
    }
}

/// Events on their way to s3s, and the query's place among those evaluated.
struct Answer {
    /// Never locked: the mutex makes the stream `Sync`, which s3s asks for.
    events: Mutex<Events>,
    cx: Cx,
    _permit: OwnedSemaphorePermit,
}

impl Stream for Answer {
    type Item = S3Result<SelectObjectContentEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let events = this.events.get_mut().unwrap_or_else(PoisonError::into_inner);
        events.poll_next_unpin(context).map(|event| Some(event?.map(framed).map_err(|error| refusal(&this.cx, &error))))
    }
}

fn framed(event: Event) -> SelectObjectContentEvent {
    type Framed = SelectObjectContentEvent;
    let count = |bytes: u64| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
    let counts =
        |counts: Counts| (count(counts.scanned_bytes), count(counts.processed_bytes), count(counts.returned_bytes));
    match event {
        Event::Records(payload) => Framed::Records(RecordsEvent { payload: Some(payload) }),
        Event::Cont => Framed::Cont(ContinuationEvent {}),
        Event::End => Framed::End(EndEvent {}),
        Event::Progress(so_far) => {
            let (bytes_scanned, bytes_processed, bytes_returned) = counts(so_far);
            let details = Some(Progress { bytes_processed, bytes_returned, bytes_scanned });
            Framed::Progress(ProgressEvent { details })
        }
        Event::Stats(all) => {
            let (bytes_scanned, bytes_processed, bytes_returned) = counts(all);
            Framed::Stats(StatsEvent { details: Some(Stats { bytes_processed, bytes_returned, bytes_scanned }) })
        }
    }
}

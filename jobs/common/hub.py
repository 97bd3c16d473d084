"""Files brought to the Hugging Face hub, all of them or none that is called published; see jobs/publish.py.

A commit on the hub is whole or not there. What it holds is compared with what was sent, and only then it gets its tag:
without the tag nothing is published. Weights that are there already, of a run that was cut off, are not sent again.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.common.saying import doing, say
from pipeline.errors import UserError
from pipeline.results.files import file_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRIES = 6  # of a request, ever longer apart
WAIT_SECONDS = 1.0  # before the second
TRANSIENT = (408, 429, 500, 502, 503, 504)
# Of a repository's files those that another commit's may not stand beside: a model would be opened with both.
OWN = (".safetensors", ".safetensors.index.json", ".parquet")
Content = Path | bytes
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Place:
    repository: str  # owner/name
    kind: str  # model | dataset
    public: bool

    @property
    def shown(self) -> str:
        return f"{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"


def publish(place: Place, files: Mapping[str, Content], tag: str, message: str) -> tuple[str, bool]:
    """Bring files to a repository, by their names there, and mark them with a tag; returns the URL, and if all see it.

    Raises UserError where the hub does not take them. What is there under the tag already stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    doing("asking the hub who we are")
    told(lambda: api.whoami(), place)
    public = visibility(api, place)
    url = f"{api.endpoint}/{place.shown}"
    tags = tagged(api, place)
    if tag in tags and not missing(api, place, tags[tag], files):
        say(f"publish: {place.shown} has it already, under the tag {tag}")
        return f"{url}/tree/{tag}", public
    told(
        lambda: api.create_repo(place.repository, private=not place.public, repo_type=place.kind, exist_ok=True), place
    )
    commit = committed(api, place, files, message)
    doing("comparing what is there with what was sent")
    if wrong := missing(api, place, commit, files):
        problem = f"{place.shown} is not as it was sent: {wrong[0]} of {len(files)} files is missing or other"
        raise UserError(problem, "run the same command again; nothing is tagged, so that nothing is published")
    if tag in tags:
        told(lambda: api.delete_tag(place.repository, tag=tag, repo_type=place.kind), place)
    told(lambda: api.create_tag(place.repository, tag=tag, revision=commit, repo_type=place.kind, exist_ok=True), place)
    return f"{url}/tree/{tag}", public


def visibility(api: "HfApi", place: Place) -> bool:
    """Whether all will see it. Raises UserError where the repository is there and public, which nobody asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def look() -> bool | None:
        try:
            return api.repo_info(place.repository, repo_type=place.kind).private
        except RepositoryNotFoundError:
            return None

    private = told(look, place)
    if private is False and not place.public:
        problem = f"{place.shown} is there already, and public"
        raise UserError(problem, "--public says that you mean it; or give another --to")
    if private and place.public:
        say(f"publish: {place.shown} is there already and stays private: its settings on the hub open it")
    return place.public and not private


def tagged(api: "HfApi", place: Place) -> dict[str, str]:
    """The commits of a repository's tags; none where there is no repository."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def look() -> dict[str, str]:
        try:
            refs = api.list_repo_refs(place.repository, repo_type=place.kind)
        except RepositoryNotFoundError:
            return {}
        return {ref.name: ref.target_commit for ref in refs.tags}

    return told(look, place)


def committed(api: "HfApi", place: Place, files: Mapping[str, Content], message: str) -> str:
    """Make one commit of all files; returns its id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def commit() -> str:
        there = api.list_repo_files(place.repository, repo_type=place.kind)
        gone = [CommitOperationDelete(name) for name in there if name.endswith(OWN) and name not in files]
        new = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        doing(f"sending {len(files)} files")
        made = api.create_commit(place.repository, [*gone, *new], commit_message=message, repo_type=place.kind)
        return str(made.oid)

    return told(commit, place)


def missing(api: "HfApi", place: Place, revision: str, files: Mapping[str, Content]) -> list[str]:
    """Names of files that a commit does not hold, or with other bytes."""
    from huggingface_hub.hf_api import RepoFile

    def look() -> dict[str, RepoFile]:
        found = api.list_repo_tree(place.repository, recursive=True, revision=revision, repo_type=place.kind)
        return {each.path: each for each in found if isinstance(each, RepoFile)}

    there = told(look, place)
    return [name for name, content in files.items() if name not in there or not same(there[name], content)]


def same(there: Any, content: Content) -> bool:
    """Whether a file of the hub has these bytes: large ones are named by SHA-256, others by git's own digest."""
    if there.lfs:
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)
        return bool(there.lfs.sha256 == digest)
    data = content if isinstance(content, bytes) else content.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


def told(call: Callable[[], Answer], place: Place) -> Answer:
    """What a call of the hub's client answers; what the hub, or the way to it, drops is tried again.

    Raises UserError where it fails for good.
    """
    for number in itertools.count():
        try:
            return call()
        except UserError:
            raise
        except Exception as error:  # the client raises its own errors, its transport's and the system's
            status, said = status_of(error), " ".join(str(error).split())[:300]
            if status not in TRANSIENT and (status is not None or not is_transport(error)):
                raise UserError(*refusal(error, status, said, place)) from None
            why = f"the hub answers {status}" if status else f"the hub cannot be reached ({type(error).__name__})"
            if number + 1 == TRIES:
                remedy = "the same command goes on: what was sent is kept there, and nothing is called published"
                raise UserError(f"{why}: {said}", remedy) from None
            seconds = WAIT_SECONDS * 2**number
            say(f"publish: {why}; once more in {seconds:.0f} s, what was sent is kept")
            time.sleep(seconds)
    raise AssertionError("it counts for ever")


def refusal(error: Exception, status: int | None, said: str, place: Place) -> tuple[str, str]:
    """What to say of what will be no other the next time."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    login = "hf auth login, or export HF_TOKEN=... with a token that may write to it"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token for the hub", login
    if status == 401:
        return f"the hub does not take the token, which may have expired: {said}", login
    if status == 403:
        return f"the token may not write to {place.shown}: {said}", f"give --to of your own; or {login}"
    if status == 413:
        return f"this is more than the hub takes: {said}", "publish less, such as adapters (train.lora.merge=false)"
    return f"the hub refuses {place.shown}: {said}", "mend that, and run the same command again"


def status_of(error: BaseException | None) -> int | None:
    """The status that the hub answered with, of an error or what it came from."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__ or error.__context__
    return None


def is_transport(error: BaseException | None) -> bool:
    """Whether the connection failed, and not what went through it."""
    while error is not None:
        if type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False

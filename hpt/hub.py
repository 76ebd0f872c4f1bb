"""The Hugging Face hub: its errors in one sentence with what to do."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from hpt.errors import ConfigError


@contextmanager
def hub_access(kind: Literal["dataset", "model"], name: str, repository: str, local: str) -> Generator[None]:
    """Turn whatever the hub raises inside the block into a `ConfigError`.

    Raises:
        ConfigError: no access (not logged in, licence not accepted, no such repository), or no connection.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    field = "data set" if kind == "dataset" else "policy.name"
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError, DatasetNotFoundError) as error:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
        remedy = f"accept its licence at {page}, then type `hf auth login` or set HF_TOKEN; or use a copy: {local}"
        raise ConfigError(field, name, f"access to {repository} on the hub", remedy) from error
    except Exception as error:  # the hub, its HTTP client and datasets each raise a family of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        remedy = f"try again later, the parts that came are kept; or use a copy: {local} ({reason})"
        raise ConfigError(field, name, f"{repository} on the hub, reachable and complete", remedy) from error

"""Files of a Hugging Face repository, and error texts for when they cannot be downloaded.

`HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub, which also
shows the progress of a download. Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from pxbridge.errors import InputError
from pxbridge.personaplex.config import DEFAULT_REPO

LICENCES = {
    DEFAULT_REPO: "the NVIDIA Open Model License and CC BY 4.0",
    "kyutai/personaplex-rl-seamless": "CC BY-NC 4.0 (no commercial use) and the NVIDIA Open Model License",
}
"""From the repositories' pages. Mimi is in both; it is Kyutai's, CC BY 4.0."""

_NOT_SEEN = "there is no such repository, or it may not be seen without logging in"


def licence(repo: str) -> str:
    """A sentence on the licence of what a repository holds."""
    if repo in LICENCES:
        return f"{repo} is licensed under {LICENCES[repo]}; its terms are at {page_of(repo)}"
    return f"the licence of {repo} is at {page_of(repo)}"


def page_of(repo: str) -> str:
    """Where a person reads about a repository and accepts its licence."""
    return f"https://huggingface.co/{repo}"


def download(repo: str, name: str) -> Path:
    """A file of a Hugging Face repository, from the cache on this machine when it is there.

    Raises:
        InputError: It cannot be had; tells why, and for a gated repository where its licence is accepted.
    """
    page = page_of(repo)
    remedy = "put a token of the same account into HF_TOKEN"
    if "HF_TOKEN" in os.environ:
        remedy += " (the present one is not accepted)"
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except errors.GatedRepoError as error:
        raise InputError(f"{repo} is gated: accept its licence at {page}, and {remedy}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{repo}: {_NOT_SEEN}: look at {page}, and {remedy}") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(f"{repo}: {name} is not on this machine, and {_why_not(error)}") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{repo}: there is no {name} in it; see {page}") from error
    except errors.HFValidationError as error:
        raise InputError(f"--hf-repo {repo}: no name of a repository (owner/name)") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):  # how the hub hides what a token may not see
            raise InputError(f"{repo}: {_NOT_SEEN}: look at {page}, and {remedy}") from error
        raise InputError(f"{repo}: {name} cannot be downloaded: {first_line(error)}") from error
    except Exception as error:  # of whichever HTTP library it uses, and of the disk
        raise InputError(f"{repo}: {name} cannot be downloaded: {first_line(error)}") from error


def _why_not(error: Exception) -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to download it"
    cause = error.__cause__ or error.__context__
    return f"{constants.ENDPOINT} cannot be reached" + (f" ({first_line(cause)})" if cause else "")


def first_line(error: BaseException) -> str:
    """An error in one line, whatever it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

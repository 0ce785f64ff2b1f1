"""What users ask about images."""

from ai.backend.common.errors import Forbidden

from ..access.model import Principal
from ..access.policy import Action, Reach, reach
from ..db.database import Database
from . import store
from .model import Image


class ImageService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, principal: Principal) -> list[Image]:
        if reach(principal, Action.IMAGE_READ) is Reach.NOTHING:
            raise Forbidden("you may not list images")
        return await self._database.read(store.all_images)

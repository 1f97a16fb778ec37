"""MTCNN's three networks with their trained weights, and which of their outputs is the answer."""

from facenet_pytorch.models.mtcnn import ONet, PNet, RNet  # noqa: F401

from lissom.kinds.classify import Classify


class Face(Classify):
    def answer(self, outputs):  # boxes, maybe landmarks, and the probability of a face
        return outputs[-1].flatten(1).log()

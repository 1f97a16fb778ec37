"""MTCNN's three networks with trained weights, and a kind of task that reads the face probability."""

from facenet_pytorch.models.mtcnn import ONet, PNet, RNet  # noqa: F401

from lissom.kinds.classify import Classify


class Face(Classify):
    def answer(self, outputs):  # boxes, maybe landmarks, and the probability of a face
        return outputs[-1].flatten(1).log()

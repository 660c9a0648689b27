"""Time and memory of box heads with 13,204 classes (V3Det): this package's beside MMDetection's.

    python benchmarks/head.py                       # 1,024 RoIs, as two images of a training step have
    python benchmarks/head.py --rois 2048 --keep-memory

A head has shared layers, classifier, box regression, loss and accuracy. ``step`` is forward, loss and backward of
the whole head on RoI features of 1,024 numbers. The parts, each alone: ``classifier`` (logits from features, with
backward), ``loss`` (with backward), ``accuracy``, ``detections`` (softmax, threshold, NMS), ``nms`` (of 20,000
candidates anywhere). ``peak_logits`` is the most memory at any time beyond what was there before, in multiples of the
logits, N x 13,205 float32.
"""

import inspect

import measure
import memory
import torch
from mmcv.ops import batched_nms
from mmdet.models.layers import NormedLinear
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

import apa_mmdet  # noqa: F401  registers the heads
from apa_mmdet.models.layers import many_class_nms
from apa_mmdet.models.roi_heads import LargeVocabularyBBoxHead

CLASSES, WIDTH, CANDIDATES = 13204, 1024, 20000
# MMDetection calls it `tempearture`, OneDL's `temperature`
TEMPERATURE = next(name for name in inspect.signature(NormedLinear).parameters if name.startswith('tempe'))
HEADS = {
    'wrapped Cauchy, memory-efficient loss and NMS': dict(
        type='LargeVocabularyBBoxHead',
        cls_predictor_cfg=dict(type='WrappedCauchyLinear'),
        loss_cls=dict(type='MemoryEfficientCrossEntropyLoss'),
    ),
    "mmdet's NormedLinear, loss, NMS": dict(
        type='Shared2FCBBoxHead',
        cls_predictor_cfg=dict(type='NormedLinear', **{TEMPERATURE: 50}),
        loss_cls=dict(type='CrossEntropyLoss'),
    ),
    'Linear, DropLoss': dict(
        type='LargeVocabularyBBoxHead',
        loss_cls=dict(type='DropLoss', num_classes=CLASSES, class_frequency=[1e-3, 1e-2] * (CLASSES // 2)),
    ),
}
TEST = ConfigDict(score_thr=1e-4, nms=dict(type='nms', iou_threshold=0.6), max_per_img=300)
PARTS = 'step', 'classifier', 'loss', 'accuracy', 'detections', 'nms'


def build(name: str, device: str) -> BBoxHead:
    torch.manual_seed(0)
    sizes = dict(in_channels=WIDTH, fc_out_channels=WIDTH, roi_feat_size=1, num_classes=CLASSES)
    return MODELS.build(dict(HEADS[name], **sizes, reg_class_agnostic=True)).to(device).train()


class Parts:
    """The calls that are measured on one head; an eighth of the RoIs is foreground."""

    def __init__(self, head: BBoxHead, rois: int, device: str) -> None:
        self.head = head
        self.features = torch.randn(rois, WIDTH, 1, 1, device=device)
        self.labels = torch.where(
            torch.rand(rois, device=device) < 0.125, torch.randint(0, CLASSES, (rois,), device=device), CLASSES
        )
        self.weights, self.targets = torch.ones(rois, device=device), torch.randn(rois, 4, device=device)
        self.boxes = torch.rand(rois, 5, device=device) * 300
        self.boxes[:, 0], self.boxes[:, 3:] = 0, self.boxes[:, 1:3] + 100
        self.logits = head.fc_cls(self.features.flatten(1)).detach().requires_grad_()
        self.grad = torch.randn_like(self.logits)
        spread = self.logits.detach() - self.logits.detach().mean(1, True)
        # as peaked as a trained classifier's: of a thousand pairs of RoI and class one is a candidate
        self.detected = spread / spread.std(1, keepdim=True) * 12 - 40
        corner = torch.rand(CANDIDATES, 2, device=device) * 1000
        boxes = torch.cat([corner, corner + torch.rand(CANDIDATES, 2, device=device) * 300], 1)
        labels = torch.randint(0, CLASSES, (CANDIDATES,), device=device)
        self.candidates = boxes, torch.rand(CANDIDATES, device=device), labels

    def zero_grad(self) -> None:
        for tensor in (*self.head.parameters(), self.logits):
            tensor.grad = None

    def step(self) -> None:
        self.zero_grad()
        scores, deltas = self.head(self.features)
        box_weights = self.weights[:, None].expand(-1, 4)
        losses = self.head.loss(scores, deltas, self.boxes, self.labels, self.weights, self.targets, box_weights)
        (losses['loss_cls'] + losses['loss_bbox']).backward()

    def classifier(self) -> None:
        self.zero_grad()
        self.head.fc_cls(self.features.flatten(1)).backward(self.grad)

    def loss(self) -> None:
        self.zero_grad()
        self.head.loss_cls(self.logits, self.labels, self.weights, avg_factor=float(len(self.labels))).backward()

    @torch.no_grad()
    def accuracy(self) -> object:
        score = self.head.loss_cls.get_accuracy if self.head.custom_accuracy else accuracy
        return score(self.logits, self.labels)

    @torch.no_grad()
    def detections(self) -> object:
        meta = dict(img_shape=(500, 500))
        return self.head._predict_by_feat_single(self.boxes, self.detected, self.targets * 0, meta, False, TEST)

    @torch.no_grad()
    def nms(self) -> object:
        call = many_class_nms if isinstance(self.head, LargeVocabularyBBoxHead) else batched_nms
        return call(*self.candidates, TEST.nms)


def main() -> None:
    parser = measure.parser_of(__doc__, rounds=5)
    parser.add_argument('--rois', type=measure.at_least(8), default=1024, help='default: %(default)s')
    args = parser.parse_args()
    table = measure.begin(args, 'head', 'name part ms peak_mib peak_logits')
    every = {name: Parts(build(name, args.device), args.rois, args.device) for name in HEADS}
    calls = {(name, part): getattr(parts, part) for name, parts in every.items() for part in PARTS}
    for call in calls.values():
        call()
    samples = measure.round_robin(calls, args.rounds, args.device)
    for (name, part), call in calls.items():
        every[name].zero_grad()
        peak = memory.memory_of(call, args.device).peak
        row = dict(name=name, part=part, rois=args.rois, classes=CLASSES, device=args.device)
        row |= measure.milliseconds(samples[name, part])
        table.add(**row, peak_mib=peak / measure.MIB, peak_logits=peak / every[name].logits.nbytes)


if __name__ == '__main__':
    main()

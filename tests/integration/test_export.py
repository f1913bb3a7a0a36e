"""Models that leave Python: torch.export with the loss still attached, ONNX compared in onnxruntime."""

import warnings

import onnxruntime
import pytest
import torch

import tapadl

BATCH = ({0: torch.export.Dim("batch")},)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["none", "listening", "attached"])
def test_export_with_a_dynamic_batch(model, images, loss):
    if loss == "listening":
        diversification = tapadl.AttentionDiversificationLoss(model)
    elif loss == "attached":
        tapadl.attach_diversification(model)
    exported = torch.export.export(model.eval(), (images[:2],), dynamic_shapes=BATCH)
    if loss == "listening":
        with pytest.raises(RuntimeError, match="got none"):
            diversification()  # an export is no forward, and leaves none of its tensors
    for batch in (1, 4):
        want = model(images[:batch])
        torch.testing.assert_close(exported.module()(images[:batch]), want, rtol=1e-4, atol=1e-6)
    names = {str(node.target) for node in exported.graph.nodes}
    assert not any("diversification" in name for name in names)


@pytest.mark.slow
def test_onnx_with_a_dynamic_batch(model, images, tmp_path):
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter and onnxscript warn of their own calls
        program = torch.onnx.export(
            model.eval(), (images[:2],), dynamo=True, dynamic_shapes=BATCH, verbose=False
        )
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 4):
        (got,) = session.run(None, {session.get_inputs()[0].name: images[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(images[:batch]), rtol=1e-4, atol=1e-6)
    without_tap = tapadl.detach_tap(model)(images)
    assert (torch.from_numpy(got) - without_tap).abs().max() > 1e-3

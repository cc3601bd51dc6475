import statistics
from dataclasses import replace

import pytest
import yaml

from llmsim import catalog
from llmsim.errors import CatalogError
from llmsim.hardware import load_device
from llmsim.performance.coefficients import (
    DATA_SHEET,
    FITTED,
    FOLDER,
    OTHER_STACK,
    SIBLING,
    UNUSABLE,
    Coefficients,
    error_text,
)

FILES = [name for name in catalog.names(FOLDER) if name != "stacks"]
FITTED_DEVICES = [name for name in FILES if name not in ("default", "a40")]


def content(name: str) -> dict:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(catalog.find(FOLDER, name).read_text(), Loader=loader)


def tables(name: str) -> dict:
    return {key: table for key, table in content(name).items() if key not in ("source", "fitted_with")}


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_a_version_an_error_and_as_many_numbers_as_columns(name):
    assert content(name)["source"]["default"]
    for section, table in tables(name).items():
        assert table["columns"][:2] == ["version", "error"]
        for key, row in table.items():
            assert len(row) == len(table["columns"]), (section, key)
            if key != "columns":
                assert all(isinstance(cell, str) for cell in row[:2]), (section, key)
                assert all(isinstance(cell, int | float) and cell >= 0 for cell in row[2:]), (section, key)


def test_the_catalogue_describes_fitted_devices_by_the_figures_they_were_fitted_with():
    for name in FILES:
        if name == "default":
            continue
        figures = content(name)["fitted_with"]
        device = load_device(figures["device"])
        assert device.performance == name
        assert device.memory_bandwidth == pytest.approx(figures["memory_GBps"] * 1e9)
        assert device.multiprocessors == figures["multiprocessors"]
        for key in ("bf16", "fp8", "nvfp4"):
            if f"{key}_TFLOPS" in figures:
                assert device.peak_flops[key] == pytest.approx(figures[f"{key}_TFLOPS"] * 1e12)
        if "link_GBps" in figures:
            assert device.scale_up_bandwidth == pytest.approx(figures["link_GBps"] * 1e9, rel=0.02)


def test_the_data_sheet_layer_is_the_medians_of_the_fitted_devices():
    for section in ("gemm", "attn_prefill", "attn_decode", "mla_context", "mla_generation", "moe"):
        table = tables("default")[section]
        for key, row in table.items():
            if not key.startswith("any/") or (section, key) == ("gemm", "any/bfloat16"):
                continue  # the bf16 products are the published medians, of one release earlier
            _, _, number, stack, _ = row[0].split()
            theirs = [
                fitted[section][f"{stack}/{key[4:]}"]
                for fitted in map(tables, FITTED_DEVICES)
                if f"{stack}/{key[4:]}" in fitted.get(section, {})
            ]
            assert len(theirs) == int(number)
            for place in range(2, len(row)):
                assert row[place] == pytest.approx(statistics.median(fit[place] for fit in theirs), rel=1e-3)


def test_a_device_on_its_own_stack_is_fitted_and_says_its_error():
    known = Coefficients(load_device("h200-sxm"), "vllm@0.33")
    gemm = known.gemm("fp8")
    assert (gemm.layer, gemm.source, gemm.error) == (FITTED, "h200_sxm vllm 0.24.0", "7.3 / 23.2 %")
    assert known.warnings == []


def test_a_stack_without_a_fit_takes_the_nearest_one_and_says_so():
    known = Coefficients(load_device("h200-sxm"), "sglang")
    gemm = known.gemm("bfloat16")
    assert gemm.layer == OTHER_STACK
    assert gemm.fit == Coefficients(load_device("h200-sxm"), "vllm").gemm("bfloat16").fit
    assert known.warnings == ["gemm bfloat16: no usable fit for h200_sxm on sglang, h200_sxm vllm 0.24.0 stands in"]


def test_a_fit_that_failed_is_passed_over_for_one_that_did_not():
    device = load_device("b200-sxm")
    assert float(tables("b200_sxm")["gemm"]["vllm/fp8_block"][1].split()[0]) > UNUSABLE
    known = Coefficients(device, "vllm")
    assert known.gemm("fp8_block").source.startswith("b200_sxm trtllm")
    assert "no usable fit" in known.warnings[0]


def test_the_vllm_of_2023_is_priced_by_the_tables_of_its_time():
    assert "vidur" in Coefficients(load_device("a100-sxm"), "vllm-2023").gemm("bfloat16").source
    assert "vidur" not in Coefficients(load_device("a100-sxm"), "vllm").gemm("bfloat16").source


def test_trtllm_has_classes_of_decode_attention():
    known = Coefficients(load_device("h200-sxm"), "trtllm")
    assert known.decode("bfloat16", grouped=True).fit.ti_ns == 35.06
    assert known.decode("bfloat16", grouped=False).fit.ti_ns == 10.29


def test_a_cache_format_that_was_not_measured_falls_back_aloud():
    known = Coefficients(load_device("a100-sxm"), "vllm")
    assert known.decode("fp8", grouped=True).fit == known.decode("bfloat16", grouped=True).fit
    assert any("priced as hd128_kvbfloat16" in warning for warning in known.warnings)


def test_an_unfitted_device_is_priced_from_its_data_sheet_aloud():
    known = Coefficients(load_device("mi300x"))
    assert known.gemm("bfloat16").layer == DATA_SHEET
    assert known.collective("nccl", "all_reduce", 8) is None
    assert known.warnings == ["device mi300x: no kernel was ever measured, priced from its data sheet"]
    assert known.chip.bandwidth == pytest.approx(5.3e12)


def test_a_sibling_of_a_fitted_device_is_priced_by_its_kernels_aloud():
    device = replace(load_device("gh200"), performance="h100_sxm")
    known = Coefficients(device)
    assert known.gemm("bfloat16").layer == SIBLING
    assert known.gemm("bfloat16").fit == Coefficients(load_device("h100-sxm")).gemm("bfloat16").fit
    assert known.chip.bandwidth == device.memory_bandwidth
    assert known.warnings == ["device gh200: priced by the kernels of h100-sxm, scaled by the data sheet"]


def test_a_cpu_has_constants_of_its_own():
    known = Coefficients(load_device("xeon-8592"))
    assert known.gemm("bfloat16").source == "assumed"
    assert known.gemm("bfloat16").error == "unknown"


def test_a_device_without_bf16_multiplies_at_its_half_precision_peak():
    assert Coefficients(load_device("v100-sxm-32gb")).chip.bf16 == pytest.approx(125e12)


def test_an_unknown_stack_is_priced_as_vllm_aloud():
    known = Coefficients(load_device("h100-sxm"), "llama.cpp")
    assert known.warnings == ["software stack 'llama.cpp' was never measured: priced as vllm"]


def test_static_scales_take_the_launch_of_the_plain_product():
    known = Coefficients(load_device("h200-sxm"), "trtllm")
    plain, quantised, fused = known.gemm("bfloat16").fit, known.gemm("fp8").fit, known.fused_gemm("fp8").fit
    assert (fused.t0_us, fused.tk_us, fused.ks, fused.qb) == (plain.t0_us, plain.tk_us, plain.ks, 0.0)
    assert (fused.e_max, fused.e_bw, fused.p) == (quantised.e_max, quantised.e_bw, quantised.p)
    assert known.fused_gemm("bfloat16") == known.gemm("bfloat16")


def test_a_device_that_names_coefficients_which_do_not_exist_is_an_error():
    with pytest.raises(CatalogError, match="h100_sxmm"):
        Coefficients(load_device({**RAW, "performance": "h100_sxmm"}))


RAW = {
    "title": "a card", "maker": "nobody", "kind": "gpu", "memory": "80 GB", "memory_bandwidth": "1 TB/s",
    "peak_flops": {"bf16": "100 TFLOP/s"}, "clock": "1 GHz", "multiprocessors": 10, "scale_up_bandwidth": "50 GB/s",
    "scale_out_bandwidth": "10 GB/s", "power": "100 W", "sources": {"default": "made up"},
}  # fmt: skip


def test_an_error_is_shown_as_median_and_p90():
    assert error_text("5.0 13.3 26.8") == "5.0 / 13.3 %"
    assert error_text("8 23 (against measured)") == "8 / 23 %"
    assert error_text("unknown") == "unknown"

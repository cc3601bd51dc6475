"""Names that people write for devices, models and engines: found, or said to be unknown, never taken for another."""

import pytest

from llmsim.accuracy.lengths import NotRunError
from llmsim.accuracy.names import device_named, model_like, model_named
from llmsim.accuracy.numbers import formats_of
from llmsim.accuracy.software import software_of
from llmsim.errors import CatalogError, ModelError
from llmsim.hardware import load_device
from llmsim.model import load_model
from llmsim.performance.correction import stack_names

# What somebody wrote -> the catalogue's device; None: not known, or not told apart.
DEVICES = [
    ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H100 PCIe", "h100-pcie"), ("H100 NVL", "h100-nvl"),
    ("H100-NVL-94GB", "h100-nvl"), ("NVIDIA H200-NVL-141GB", "h200-nvl"), ("H200 NVL", "h200-nvl"),
    ("NVIDIA H100-SXM-80GB", "h100-sxm"), ("H100-SXM-80GB power-capped", "h100-sxm"), ("8xH100", "h100-sxm"),
    ("8 x NVIDIA H100 SXM5", "h100-sxm"), ("H100SXM5", "h100-sxm"), ("H800", "h800-sxm"), ("H800 PCIe", "h800-pcie"),
    ("H20", "h20"), ("H20 141GB", "h20-141gb"), ("A100", "a100-sxm-80gb"), ("A100 80GB PCIe", "a100-pcie-80gb"),
    ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"), ("A100 40GB PCIe", "a100-pcie-40gb"),
    ("A100 40GB", "a100-sxm-40gb"), ("A100-SXM4-80GB", "a100-sxm-80gb"), ("A100-SXM4-40GB", "a100-sxm-40gb"),
    ("A100SXM4 80G", "a100-sxm-80gb"), ("NVIDIA A100-SXM-80GB", "a100-sxm-80gb"), ("A800", "a800-sxm"),
    ("A800 80GB PCIe", "a800-pcie-80gb"), ("A10", "a10"), ("A10G", "a10g"), ("NVIDIA A10G 24GB", "a10g"),
    ("A30", "a30"), ("A40", "a40"), ("A2", "a2"), ("L4", "l4"), ("NVIDIA L4 24GB", "l4"), ("L40", "l40"),
    ("L40S", "l40s"), ("L40S 48GB", "l40s"), ("NVIDIA L40S-48GB PCIe", "l40s"), ("T4", "t4"), ("Tesla T4", "t4"),
    ("NVIDIA T4 16GB", "t4"), ("V100", "v100-sxm-32gb"), ("V100 16GB", "v100-sxm-16gb"),
    ("Tesla V100-SXM2-16GB", "v100-sxm-16gb"), ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"),
    ("V100-PCIE-16GB", "v100-pcie-16gb"), ("V100S-PCIE-32GB", "v100s-pcie-32gb"),
    ("V100-SXM (DGX-1)", "v100-sxm-32gb"), ("P100", "p100-sxm-16gb"), ("Tesla P100-PCIE-16GB", "p100-pcie-16gb"),
    ("RTX 2080 Ti", "rtx-2080-ti"), ("RTX 2080Ti", "rtx-2080-ti"),
    ("NVIDIA GeForce RTX 2080 Ti 11GB", "rtx-2080-ti"), ("RTX 2080", None), ("RTX 3060", "rtx-3060"),
    ("RTX 3060 12GB", "rtx-3060"), ("RTX 3070", "rtx-3070"), ("3070 Ti", "rtx-3070-ti"), ("RTX 3080", "rtx-3080"),
    ("RTX 3080 12GB", None), ("RTX 3080Ti", "rtx-3080-ti"), ("RTX 3090", "rtx-3090"), ("RTX3090Ti", "rtx-3090-ti"),
    ("NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti"), ("RTX 4060 Ti 16GB", "rtx-4060-ti"), ("RTX 4060 Ti 8GB", None),
    ("RTX 4070", "rtx-4070"), ("RTX 4070 Super", "rtx-4070-super"), ("RTX 4070 Ti", "rtx-4070-ti"),
    ("RTX 4070 Ti Super", "rtx-4070-ti-super"), ("RTX 4080", "rtx-4080"), ("RTX 4080 SUPER", "rtx-4080-super"),
    ("RTX 4090", "rtx-4090"), ("RTX4090", "rtx-4090"), ("RTX-4090-24GB", "rtx-4090"), ("2x RTX 4090", "rtx-4090"),
    ("2 \u00d7 RTX 4090", "rtx-4090"), ("RTX 4090D", None), ("RTX 4090 Laptop GPU", None), ("RTX 5090", "rtx-5090"),
    ("GeForce RTX 5080", "rtx-5080"), ("RTX 5070 Ti", "rtx-5070-ti"), ("RTX 5090 Laptop", None),
    ("RTX A6000", "rtx-a6000"), ("A6000", "rtx-a6000"), ("RTX A5000", "rtx-a5000"), ("RTX A4000", "rtx-a4000"),
    ("RTX 6000 Ada", "rtx-6000-ada"), ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
    ("RTX A6000 Ada", "rtx-6000-ada"), ("RTX 6000", None), ("Quadro RTX 6000", "quadro-rtx-6000"),
    ("Quadro RTX 8000", "quadro-rtx-8000"), ("RTX PRO 6000", "rtx-pro-6000"),
    ("RTX PRO 6000 Blackwell 96GB", "rtx-pro-6000"), ("RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
    ("RTX PRO 6000 Blackwell Max-Q", "rtx-pro-6000-max-q"), ("RTX 4000 Ada", "rtx-4000-ada"),
    ("RTX 4000 SFF Ada", "rtx-4000-ada"), ("Titan RTX", "titan-rtx"), ("GH200", "gh200"),
    ("GH200-144GB", "gh200-144gb"), ("GH200 96GB", "gh200"), ("NVIDIA GH200 480GB", "gh200"), ("B100", "b100-sxm"),
    ("B200", "b200-sxm"), ("B200-SXM-180GB", "b200-sxm"), ("NVIDIA B200 192GB", "b200-sxm"), ("B300", "b300-sxm"),
    ("B300-SXM-288GB", "b300-sxm"), ("GB200", "gb200"), ("GB200 NVL72", "gb200"), ("GB200-NVL72-186GB", "gb200"),
    ("GB200 NVL4", "gb200"), ("GB300", "gb300"), ("GB300 NVL72", "gb300"), ("GB10", "gb10"),
    ("DGX Spark (GB10)", "gb10"), ("DGX Spark", "gb10"), ("MI100", "mi100"), ("MI210", "mi210"),
    ("AMD Instinct MI210 64GB", "mi210"), ("MI250", "mi250"), ("AMD MI250", "mi250"), ("MI250 128GB", "mi250"),
    ("MI250X", "mi250x"), ("AMD Instinct MI250X", "mi250x"), ("MI300A", "mi300a"), ("MI300X", "mi300x"),
    ("AMD Instinct MI300X 192GB HBM3", "mi300x"), ("MI300X-192GB-750W", "mi300x"), ("MI308X", None),
    ("MI325X", "mi325x"), ("AMD Instinct MI325X 256GB HBM3E", "mi325x"), ("MI350X", "mi350x"), ("MI355X", "mi355x"),
    ("RX 7900 XTX", "rx-7900-xtx"), ("RX 7900 XT", "rx-7900-xt"), ("7900XTX", "rx-7900-xtx"), ("RX 7900 GRE", None),
    ("Radeon Pro W7900", "radeon-pro-w7900"), ("Intel Gaudi 2", "gaudi2"), ("Gaudi2", "gaudi2"),
    ("Habana Gaudi2", "gaudi2"), ("Intel Gaudi 3", "gaudi3"), ("HL-325L", "gaudi3"),
    ("Intel Max 1550 (PVC)", "max-1550"), ("Intel Data Center GPU Max 1100", "max-1100"), ("Arc A770", "arc-a770"),
    ("Intel Arc A770 16GB", "arc-a770"), ("TPU v2", "tpu-v2"), ("TPU v3", "tpu-v3"), ("TPU v3-8", "tpu-v3"),
    ("TPU v4", "tpu-v4"), ("TPUv4", "tpu-v4"), ("TPU v5e", "tpu-v5e"), ("TPU v5e-8", "tpu-v5e"),
    ("TPU v5 lite", "tpu-v5e"), ("v5litepod-8", "tpu-v5e"), ("TPU v5p", "tpu-v5p"), ("v5p-8", "tpu-v5p"),
    ("TPU v6e", "tpu-v6e"), ("TPU v6e (Trillium)", "tpu-v6e"), ("Trillium", "tpu-v6e"), ("TPU v7", "tpu-v7"),
    ("TPU7x", "tpu-v7"), ("Ironwood", "tpu-v7"), ("Trainium", "trainium1"), ("AWS Trainium2", "trainium2"),
    ("trn1.32xlarge", "trainium1"), ("trn2.48xlarge", "trainium2"), ("Inferentia2", "inferentia2"),
    ("inf2.48xlarge", "inferentia2"), ("Inferentia", None), ("Ascend 910B", "ascend-910b"),
    ("Huawei Ascend 910B3 64GB", "ascend-910b"), ("Intel Xeon Platinum 8480+", "xeon-8480"),
    ("Xeon 8592+", "xeon-8592"), ("INTEL(R) XEON(R) PLATINUM 8592+", "xeon-8592"),
    ("Intel Xeon 6980P", "xeon-6980p"), ("Intel Xeon Platinum 8380", "xeon-8380"),
    ("Intel Xeon Platinum 8280", "xeon-8280"), ("Xeon Platinum 8468", None), ("Sapphire Rapids", "xeon-8480"),
    ("Intel Xeon 8468V (Sapphire Rapids)", None), ("AMD EPYC 9654", "epyc-9654"), ("2x AMD EPYC 9654", "epyc-9654"),
    ("AMD EPYC 9374F (Genoa)", None), ("AMD EPYC 9755", "epyc-9755"), ("EPYC 7763", "epyc-7763"),
    ("EPYC 7742", "epyc-7742"), ("NVIDIA Grace", "grace-cpu"), ("NVIDIA Grace CPU", "grace-cpu"),
    ("Graviton3", "graviton3"), ("AWS Graviton4", "graviton4"), ("CPU Intel i9-13900K, DDR5-6400", "core-i9-13900k"),
    ("Core i9-13900K", "core-i9-13900k"), ("AMD Ryzen 9 7950X", "ryzen-7950x"),
    ("CPU Apple M2 Pro (12-core)", "m2-pro-cpu"), ("CPU Mac Pro 2019 Intel 16-core", "mac-pro-2019-cpu"),
    ("Apple M1", "m1"), ("M1 7-Core GPU 8GB", "m1-7-core"), ("M1 Pro", "m1-pro"), ("Apple M1 Max GPU 64GB", "m1-max"),
    ("M1 Max 32-Core GPU 64GB", "m1-max"), ("M1 Ultra", "m1-ultra"), ("M2", "m2"),
    ("Apple M2 Pro 19-core GPU", "m2-pro"), ("M2 Max", "m2-max"), ("M2 Ultra 76-Core GPU 192GB", "m2-ultra"),
    ("Apple M3", "m3"), ("M3 Pro", "m3-pro"), ("M3 Max 40-Core GPU 64GB", "m3-max"),
    ("M3 Max 30-core GPU", "m3-max-30-core"), ("M3 Ultra", "m3-ultra"), ("Apple M4 (10-core GPU, 16GB)", "m4"),
    ("Apple M4 Pro", "m4-pro"), ("M4 Max", "m4-max"), ("M4 Max 128GB", "m4-max"),
    ("M4 Max (32-core GPU)", "m4-max-32-core"), ("Mac mini M4", "m4"), ("MacBook Pro M3 Max", "m3-max"),
    ("Jetson Orin", "jetson-agx-orin"), ("NVIDIA Jetson AGX Orin 64G", "jetson-agx-orin"),
    ("Jetson AGX Orin 32GB", "jetson-agx-orin-32gb"), ("Jetson Orin NX 16GB", "jetson-orin-nx-16gb"),
    ("Jetson Orin Nano", "jetson-orin-nano-8gb"), ("Jetson Orin Nano 8GB", "jetson-orin-nano-8gb"),
    ("Jetson AGX Thor", "jetson-agx-thor"), ("Jetson Thor", "jetson-agx-thor"), ("SN40L", "sn40l"),
    ("AMD Ryzen AI Max+ 395", "strix-halo"), ("Strix Halo", "strix-halo"),
    ("A100 (mclk1593/pclk1410)", "a100-sxm-80gb"), ("H100-SXM-80GB (ALCF JLSE; form factor not in CSV)", "h100-sxm"),
    ("A100-40GB (ALCF; memory size not in CSV)", "a100-sxm-40gb"), ("g5.xlarge", "a10g"),
    ("p4d.24xlarge", "a100-sxm-40gb"), ("p5.48xlarge", "h100-sxm"), ("g6e.xlarge", "l40s"), ("abacus", None),
    ("GTX 980", None), ("K80", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), DEVICES)
def test_a_device_is_found_by_its_written_name_or_by_none(text, name):
    if name is None:
        with pytest.raises(CatalogError, match="unknown device"):
            device_named(text)
    else:
        assert device_named(text).name == name


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        # The second name tells the memory that the first leaves open, and nothing else.
        (("V100-SXM (DGX-1)", "V100-16GB"), "v100-sxm-16gb"), (("A100", "A100-40GB"), "a100-sxm-40gb"),
        (("A100 PCIe", "A100-80GB-SXM"), "a100-pcie-80gb"), (("GH200", "H200-SXM"), "gh200"),
        (("A100-80GB-SXM", "A100-40GB"), "a100-sxm-80gb"), (("our card", "RTX-4090"), "rtx-4090"),
    ],
)  # fmt: skip
def test_a_second_name_adds_what_the_first_leaves_open(texts, name):
    assert device_named(*texts).name == name


# What somebody wrote -> the catalogue's model, with the format of its weights where the name tells one.
MODELS = [
    ("meta-llama/Llama-2-7b-hf", "llama-2-7b"), ("Llama-2-7B", "llama-2-7b"), ("Llama 2 7B Chat", "llama-2-7b"),
    ("LLaMA-7B", "llama-7b"), ("llama-7b-hf", "llama-7b"), ("huggyllama/llama-13b", "llama-13b"),
    ("LLaMA 33B", "llama-30b"), ("LLaMA-65B", "llama-65b"), ("Llama2-13b", "llama-2-13b"),
    ("Llama2 70B", "llama-2-70b"), ("Llama-2-70b-chat-hf", "llama-2-70b"),
    ("TheBloke/Llama-2-7B-AWQ", "llama-2-7b-int4"), ("TheBloke/Llama-2-70B-GPTQ", "llama-2-70b-int4"),
    ("Meta-Llama-3-8B-Instruct", "llama-3-8b"), ("Llama 3 8B", "llama-3-8b"), ("llama3-8b", "llama-3-8b"),
    ("llama3:70b", "llama-3-70b"), ("llama3.1:8b", "llama-3.1-8b"), ("Llama 3.1 8B Instruct", "llama-3.1-8b"),
    ("Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b-fp8"),
    ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b-fp8"),
    ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b-nvfp4"),
    ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b-int4"), ("Llama 3.2 1B", "llama-3.2-1b"),
    ("Llama-3.2-3B-Instruct", "llama-3.2-3b"), ("Llama-3.3-70B", "llama-3.3-70b"),
    ("Llama v3.3 70B", "llama-3.3-70b"), ("LLaMA v3.1 405B", "llama-3.1-405b"),
    ("Llama-4-Scout-17B-16E", "llama-4-scout"), ("Llama 4 Maverick", "llama-4-maverick"),
    ("llama3.1-405b", "llama-3.1-405b"), ("llama2-70b-interactive-99", "llama-2-70b"), ("Mistral 7B", "mistral-7b"),
    ("LLaMA 70B", None), ("deepseek-ai/DeepSeek-V3.2-Exp", None), ("DeepSeek-V3/R1", "deepseek-v3"),
    ("llama-2-7b.Q4_K_M.gguf", "llama-2-7b-q4_k_m"), ("llama3.1:8b-instruct-q4_0", "llama-3.1-8b-q4_0"),
    ("Mistral-7B-v0.1", "mistral-7b-v0.1"), ("Mistral-7B-Instruct-v0.2", "mistral-7b-v0.2"),
    ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"), ("Mistral-Nemo-12B", "mistral-nemo-12b"),
    ("Mistral NeMo", "mistral-nemo-12b"), ("Mistral-Small-24B-Instruct-2501", "mistral-small-24b"),
    ("Mistral-Small-3.1-24B-Instruct-2503", "mistral-small-24b"), ("Mistral Large 2", "mistral-large-2"),
    ("Mistral-Large-Instruct-2407", "mistral-large-2"), ("Ministral-8B-Instruct-2410", "ministral-8b"),
    ("Codestral-22B-v0.1", "codestral-22b"), ("Mixtral 8x7B", "mixtral-8x7b"),
    ("Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"), ("Mixtral-8x22B", "mixtral-8x22b"),
    ("mixtral-8x22b-instruct-v0.1", "mixtral-8x22b"), ("Qwen-7B", "qwen1.5-7b"), ("Qwen-14B-Chat", "qwen1.5-14b"),
    ("Qwen-72B", "qwen1.5-72b"), ("Qwen1.5-0.5B", "qwen1.5-0.5b"), ("Qwen1.5-1.8B", "qwen1.5-1.8b"),
    ("Qwen1.5-4B", "qwen1.5-4b"), ("Qwen1.5-7B", "qwen1.5-7b"), ("Qwen1.5-14B-Chat", "qwen1.5-14b"),
    ("Qwen1.5-32B", "qwen1.5-32b"), ("Qwen1.5-72B", "qwen1.5-72b"), ("Qwen1.5-110B", "qwen1.5-110b"),
    ("Qwen2-0.5B", "qwen2.5-0.5b"), ("Qwen2-1.5B", "qwen2.5-1.5b"), ("Qwen2-7B", "qwen2-7b"),
    ("Qwen2-72B-Instruct", "qwen2-72b"), ("Qwen2-57B-A14B", "qwen2-57b-a14b"), ("Qwen2.5-0.5B", "qwen2.5-0.5b"),
    ("Qwen2.5-7B", "qwen2.5-7b"), ("Qwen 2.5 7B", "qwen2.5-7b"), ("Qwen2.5 14B", "qwen2.5-14b"),
    ("qwen2.5:32b", "qwen2.5-32b"), ("Qwen2.5-Coder-32B-Instruct", "qwen2.5-32b"),
    ("Qwen2.5-Coder-7B", "qwen2.5-7b"), ("Qwen2.5-Math-7B", "qwen2.5-7b"), ("Qwen2.5-7B-Instruct-1M", "qwen2.5-7b"),
    ("Qwen2.5-72B-Instruct-GPTQ-Int4", "qwen2.5-72b-int4"), ("QwQ-32B", "qwen2.5-32b"),
    ("QwQ-32B-Preview", "qwen2.5-32b"), ("Qwen3-8B", "qwen3-8b"), ("Qwen3 8B", "qwen3-8b"),
    ("Qwen/Qwen3-32B-FP8", "qwen3-32b-fp8"), ("Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
    ("Qwen3-Coder-30B-A3B-Instruct", "qwen3-30b-a3b"), ("Qwen3 235B A22B", "qwen3-235b-a22b"),
    ("Qwen3-235B-A22B-Thinking-2507", "qwen3-235b-a22b"),
    ("Qwen3-Coder-480B-A35B-Instruct", "qwen3-coder-480b-a35b"), ("Qwen3-Next-80B-A3B", "qwen3-next-80b-a3b"),
    ("Gemma 2B", "gemma-2b"), ("gemma-7b-it", "gemma-7b"), ("Gemma-7B", "gemma-7b"),
    ("google/gemma-2-9b-it", "gemma-2-9b"), ("Gemma 2 27B", "gemma-2-27b"), ("Gemma2-9B", "gemma-2-9b"),
    ("gemma-3-1b-it", "gemma-3-1b"), ("Gemma 3 27B", "gemma-3-27b"), ("gemma3:12b", "gemma-3-12b"),
    ("Phi-2", "phi-2"), ("microsoft/phi-1_5", "phi-1.5"), ("Phi-3-mini-4k-instruct", "phi-3-mini"),
    ("Phi-3 mini", "phi-3-mini"), ("Phi-3-medium", "phi-3-medium"), ("Phi-3-medium-128k-instruct", "phi-3-medium"),
    ("Phi-3-small-8k-instruct", None), ("Phi-3.5-mini-instruct", "phi-3-mini-128k"),
    ("Phi-3.5-MoE-instruct", "phi-3.5-moe"), ("Phi-4", "phi-4"), ("Phi-4-mini-instruct", "phi-4-mini"),
    ("Falcon-7B", "falcon-7b"), ("falcon-40b-instruct", "falcon-40b"), ("Falcon-180B", "falcon-180b"),
    ("Falcon3-7B-Instruct", "falcon3-7b"), ("Falcon-H1-7B", None), ("Falcon-Mamba-7B", "falcon-mamba-7b"),
    ("OPT-125M", "opt-125m"), ("OPT-350M", None), ("facebook/opt-1.3b", "opt-1.3b"), ("OPT-13B", "opt-13b"),
    ("opt-30b", "opt-30b"), ("OPT-66B", "opt-66b"), ("OPT-175B", "opt-175b"), ("GPT-J-6B", "gpt-j-6b"),
    ("gptj-99.9", "gpt-j-6b"), ("GPT-NeoX-20B", "gpt-neox-20b"), ("GPT-Neo-2.7B", "gpt-3-2.7b"),
    ("GPT-3 175B", "gpt-3-175b"), ("GPT-175B", "gpt-3-175b"), ("GPT3-6.7B", "gpt-3-6.7b"), ("GPT-13B", "gpt-3-13b"),
    ("BLOOM", "bloom-176b"), ("BLOOM-176B", "bloom-176b"), ("bloom-7b1", "bloom-7b1"), ("bloom-560m", "bloom-560m"),
    ("bloom-3b", "bloom-3b"), ("BLOOMZ-7B1", "bloom-7b1"), ("MPT-7B", "mpt-7b"),
    ("mosaicml/mpt-30b-chat", "mpt-30b"), ("DeepSeek-V2", "deepseek-v2"),
    ("DeepSeek-V2-Lite-Chat", "deepseek-v2-lite"), ("DeepSeek-V2.5", "deepseek-v2"),
    ("DeepSeek-Coder-V2-Lite-Instruct", "deepseek-v2-lite"), ("DeepSeek-Coder-V2", "deepseek-v2"),
    ("DeepSeek-V3", "deepseek-v3"), ("DeepSeek-V3-0324", "deepseek-v3"), ("DeepSeek-V3.1", "deepseek-v3"),
    ("DeepSeek-R1", "deepseek-v3"), ("DeepSeek-R1-0528", "deepseek-v3"), ("DeepSeek R1 671B", "deepseek-v3"),
    ("deepseek-r1-fp4", "deepseek-v3-nvfp4"), ("nvidia/DeepSeek-R1-FP4", "deepseek-v3-nvfp4"),
    ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-v3-nvfp4"), ("DeepSeek-R1-Distill-Llama-8B", "llama-3.1-8b"),
    ("DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b"), ("DeepSeek-R1-Distill-Qwen-1.5B", "qwen2.5-1.5b"),
    ("DeepSeek-R1-Distill-Qwen-7B", "qwen2.5-7b"), ("DeepSeek-R1-Distill-Qwen-14B", "qwen2.5-14b"),
    ("DeepSeek-R1-Distill-Qwen-32B", "qwen2.5-32b"), ("DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
    ("deepseek-coder-33b-instruct", "deepseek-coder-33b"), ("deepseek-coder-6.7b-base", "deepseek-coder-6.7b"),
    ("deepseek-llm-7b-chat", "deepseek-llm-7b"), ("deepseek-llm-67b", "deepseek-llm-67b"),
    ("DeepSeek-MoE-16B", "deepseek-moe-16b"), ("Command-R", "command-r-35b"),
    ("c4ai-command-r-v01", "command-r-35b"), ("Command-R+", "command-r-plus"),
    ("c4ai-command-r-plus", "command-r-plus"), ("StarCoder", "starcoder-15b"),
    ("bigcode/starcoder", "starcoder-15b"), ("StarCoder-15B", "starcoder-15b"), ("StarCoder2-15B", "starcoder2-15b"),
    ("starcoder2-7b", "starcoder2-7b"), ("starcoder2-3b", "starcoder2-3b"), ("CodeLlama-7b-hf", "codellama-7b"),
    ("CodeLlama-13B", "codellama-13b"), ("Code Llama 34B", "codellama-34b"),
    ("CodeLlama-70b-Instruct-hf", "codellama-70b"), ("Yi-6B", "yi-6b"), ("Yi-34B-200K", "yi-34b"),
    ("01-ai/Yi-34B-Chat", "yi-34b"), ("Yi-1.5-9B", "yi-9b"), ("Baichuan2-7B", "baichuan2-7b"),
    ("Baichuan2-13B-Chat", "baichuan2-13b"), ("Baichuan-7B", "baichuan-7b"), ("ChatGLM-6B", "chatglm-6b"),
    ("ChatGLM2-6B", "chatglm2-6b"), ("chatglm3-6b", "chatglm2-6b"), ("GLM-4-9B-Chat", "glm-4-9b"),
    ("THUDM/glm-4-9b", "glm-4-9b"), ("GLM-4.5", "glm-4.5"), ("GLM-4.5-Air", "glm-4.5-air"), ("GLM-4.6", "glm-4.5"),
    ("InternLM-7B", "internlm-7b"), ("InternLM-20B", "internlm-20b"), ("InternLM2-7B", "internlm2-7b"),
    ("internlm2-chat-20b", "internlm2-20b"), ("internlm2_5-7b-chat", "internlm2-7b"), ("BERT", "bert-large"),
    ("BERT-base", "bert-base"), ("BERT-large (SQuAD)", "bert-large"), ("bert-99", "bert-large"),
    ("bert-large-uncased", "bert-large"), ("RoBERTa-base", "roberta-base"), ("RoBERTa-large", "roberta-large"),
    ("DistilBERT", "distilbert-base"), ("distilbert-base-uncased", "distilbert-base"),
    ("DistilBERT-base", "distilbert-base"), ("XLM-RoBERTa-base", "xlm-roberta-base"), ("ALBERT-base", None),
    ("T5-small", "t5-small"), ("T5-base", "t5-base"), ("T5-3B", "t5-3b"), ("T5-11B", "t5-11b"), ("t5-11b", "t5-11b"),
    ("FLAN-T5-XL", "flan-t5-xl"), ("google/flan-t5-base", "flan-t5-base"), ("flan-t5-xxl", "flan-t5-xxl"),
    ("GPT-2", "gpt2"), ("GPT2", "gpt2"), ("gpt2-xl", "gpt2-xl"), ("GPT-2 Medium", "gpt2-medium"),
    ("GPT-2 XL (1.5B)", "gpt2-xl"), ("GPT-2 1.5B", "gpt2-xl"), ("gpt2-124M", "gpt2"), ("Pythia-160M", "pythia-160m"),
    ("Pythia-1.4B", "pythia-1.4b"), ("EleutherAI/pythia-6.9b", "pythia-6.9b"), ("pythia-12b-deduped", "pythia-12b"),
    ("TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"), ("TinyLlama", "tinyllama-1.1b"), ("SmolLM-135M", "smollm-135m"),
    ("SmolLM2-1.7B-Instruct", "smollm-1.7b"), ("SmolLM2-360M", "smollm-360m"), ("gpt-oss-20b", "gpt-oss-20b"),
    ("GPT-OSS 120B", "gpt-oss-120b"), ("gpt-oss:20b", "gpt-oss-20b"), ("Kimi-K2-Instruct", "kimi-k2"),
    ("Kimi K2", "kimi-k2"), ("Kimi-K2-Instruct-0905", "kimi-k2"), ("MiniMax-M2", "minimax-m2"),
    ("MiniMax-Text-01", None), ("Nemotron-4-15B", "nemotron-4-15b"), ("Nemotron-4 340B", "nemotron-4-340b"),
    ("Llama-3.1-Nemotron-70B-Instruct", "llama-3.1-70b"), ("Minitron-8B", None), ("Nemotron-H-8B", "nemotron-h-8b"),
    ("Granite-3.0-8B-Instruct", "granite-3-8b"), ("ibm-granite/granite-3.1-8b-instruct", "granite-3-8b"),
    ("granite-3.3-2b-instruct", "granite-3-2b"), ("Granite-20B-Code", "granite-20b-code"),
    ("Jamba-v0.1", "jamba-v0.1"), ("Jamba-1.5-Mini", "jamba-v0.1"), ("Mamba-2.8B", "mamba-2.8b"),
    ("Hunyuan-A13B-Instruct", "hunyuan-a13b"), ("Vicuna-7B", "llama-2-7b"), ("Vicuna-13B v1.5", "llama-2-13b"),
    ("lmsys/vicuna-7b-v1.3", "llama-7b"), ("Vicuna-33B", "llama-30b"), ("Alpaca-7B", "llama-7b"),
    ("WizardLM-13B", "llama-2-13b"), ("Zephyr-7B-beta", "mistral-7b-v0.1"), ("OpenHermes-2.5-Mistral-7B", None),
    ("Nous-Hermes-2-Mixtral-8x7B-DPO", None), ("SOLAR-10.7B", "solar-10.7b"), ("OLMo-7B", "olmo-7b"),
    ("OLMo-2-7B", "olmo-2-7b"), ("OLMoE-1B-7B", "olmoe-1b-7b"), ("StableLM-3B-4E1T", "stablelm-3b"),
    ("stablelm-2-1_6b", "stablelm-2-1.6b"), ("RedPajama-INCITE-7B", "pythia-6.9b"), ("Dolly-v2-12B", "pythia-12b"),
    ("OpenLLaMA-7B", "llama-7b"), ("open_llama_3b", "open-llama-3b"), ("Grok-1", "grok-1"), ("DBRX", "dbrx"),
    ("dbrx-instruct", "dbrx"), ("Arctic", None), ("PaLM 62B", "palm-62b"), ("PaLM 8B", "palm-8b"),
    ("PaLM 540B", "palm-540b"), ("Turing-NLG 17B", None), ("MT-NLG 530B", "megatron-530b"),
    ("Megatron 530B", "megatron-530b"), ("BART-large", None), ("Whisper-large-v3", None), ("whisper", None),
    ("Aquila-7B", "aquila-7b"), ("DeciLM-7B", "decilm-7b"), ("EXAONE-3.5-7.8B", "exaone-3.5-7.8b"),
    ("Aya-23-8B", "aya-23-8b"), ("Seed-OSS-36B", "seed-oss-36b"), ("ERNIE-4.5-21B-A3B", "ernie-4.5-21b-a3b"),
    ("Llama-13B", "llama-13b"), ("Llama 30B", "llama-30b"), ("Llama", None), ("our-own-13b", None), ("Qwen", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), MODELS)
def test_a_model_is_found_by_its_written_name_or_by_none(text, name):
    if name is None:
        with pytest.raises(ModelError, match="unknown model"):
            model_named(text)
    else:
        assert model_named(text).name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # Of one family and within a fifth of the size; mixtures, hybrids and unknown families are never guessed.
        ("Qwen2.5-9B", "qwen3-8b"), ("InternLM3-8B-Instruct", "internlm2-7b"), ("Granite-4.0-8b", "granite-3-8b"),
        ("EXAONE-4.0-32B", "exaone-3.5-32b"), ("Llama-3-10B", None), ("our-own-13b", None), ("Falcon3-10B", None),
        ("Qwen3-VL-8B", None), ("gemma-3n-4b", None), ("Mixtral-8x10B", None), ("Qwen4-30B-A3B", None), ("Qwen", None),
        ("Falcon-H1-7B", None), ("Whisper-large-v3", None), ("BERT-340M", None),
    ],
)  # fmt: skip
def test_only_a_dense_model_of_the_same_family_and_about_the_size_lends_its_shape(text, name):
    found = model_like(text)
    assert (found.name if found else None) == name


# ---------------------------------------------------------------------- engines


@pytest.mark.parametrize(
    ("text", "stack"),
    [
        ("TGI 2.0", "tgi@2024"), ("text-generation-inference 1.4", "tgi@2024"), ("Hugging Face TGI", "tgi@2024"),
        ("LMDeploy 0.4 (TurboMind)", "lmdeploy@2024"), ("MLC-LLM", "mlc@2024"), ("ExLlamaV2", "exllama@2024"),
        ("DeepSpeed Inference", "deepspeed-inference@2023"), ("DeepSpeed ZeRO-Inference", None),
        ("DeepSpeed-FastGen", "deepspeed-mii@2024"), ("HF transformers 4.40", "transformers@2024"),
        ("HuggingFace PyTorch", "pytorch@2020"), ("KTransformers", None), ("gpt-fast", "gptfast@2024"),
        ("OpenVINO 2024.1", "openvino@2024"), ("MLX", "mlx@2024"), ("Ollama 0.3", "llamacpp@2024"),
        ("JetStream (MaxText)", "jax@2023"), ("PyTorch/XLA", "jax@2023"), ("AWS NeuronX", "neuron@2024"),
        ("transformers-neuronx", "neuron@2024"), ("optimum-habana", "habana@2024"), ("MindIE", "mindie@2024"),
        ("CTranslate2", "ctranslate2@2023"), ("IPEX-LLM", "ipexllm@2024"), ("Triton TensorRT-LLM 0.12", "trtllm@0.14"),
        ("Triton, NVIDIA TensorRT", "tensorrt"), ("Sarathi-Serve", "vllm@2024"), ("FlexGen", None), ("Groq", None),
    ],
)  # fmt: skip
def test_an_engine_without_rows_takes_its_nearest_relative_and_others_stay_unknown(text, stack):
    software = software_of(text)
    assert (software.stack if software else None) == stack
    assert stack is None or stack in stack_names()


# ---------------------------------------------------------------------- formats

FP8_CACHE = {"kv_cache_dtype": "fp8"}


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("fp16", {"dtype": "float16"}), ("half", {"dtype": "float16"}), ("BF16", {"dtype": "bfloat16"}),
        ("FP8 (E4M3)", {"quantization": "fp8"}), ("AWQ", {"quantization": "int4"}), ("GPTQ", {"quantization": "int4"}),
        ("W4A16", {"quantization": "int4"}), ("nf4 (bitsandbytes)", {"quantization": "int4"}),
        ("4-bit", {"quantization": "int4"}), ("4.0bpw", {"quantization": "int4"}), ("W8A8", {"quantization": "w8a8"}),
        ("SmoothQuant", {"quantization": "w8a8"}), ("int8", {"quantization": "int8"}),
        ("8-bit", {"quantization": "int8"}), ("NVFP4", {"quantization": "modelopt_fp4"}),
        # What is said of the cache says nothing of the weights.
        ("bf16 weights, fp8 KV cache", {"dtype": "bfloat16", **FP8_CACHE}),
        ("fp16, int8 kv", {"dtype": "float16", **FP8_CACHE}),
        ("AWQ + KV cache FP8", {"quantization": "int4", **FP8_CACHE}),
    ],
)  # fmt: skip
def test_a_format_is_read_as_people_write_it(words, flags):
    found = formats_of(words, load_model("llama-3.1-8b"), load_device("h100-sxm"), software_of("vLLM 0.10"))
    assert dict(found.flags) == flags
    assert found.assumption == ""


def test_a_format_that_is_not_told_is_assumed_and_one_that_is_not_known_is_refused():
    told = (load_model("llama-3.1-8b"), load_device("h100-sxm"), software_of("vLLM 0.10"))
    assert formats_of("mixed", *told).assumption == "the number format is not stated: fp16"
    for words in ("3-bit", "Q5_K_M", "2.5bpw"):
        with pytest.raises(NotRunError, match="unknown number format"):
            formats_of(words, *told)
